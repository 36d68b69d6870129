"""Schemas of the custom resources that the manifests use, written from the fields that their projects publish.

Only what is used here is in them, and nothing else is allowed: a misspelt or removed field is an error. Sources: the
custom resource definitions of Strimzi 0.49 (v1), KEDA 2.17 and the Prometheus operator 0.80.
"""

from __future__ import annotations

from typing import Any

import jsonschema

from tests.k8s.tools import Manifest

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
DNS_NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
COUNT: Schema = {"type": "integer", "minimum": 0}
DURATION: Schema = {"type": "string", "pattern": r"^(0|(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?)$", "minLength": 1}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


def listed(items: Schema) -> Schema:
    """At least one of these."""
    return {"type": "array", "minItems": 1, "items": items}


def resource(group_version: str, kind: str, spec: Schema) -> Schema:
    """A namespaced object of this kind."""
    metadata = closed({"name": DNS_NAME}, {"labels": TEXTS, "annotations": TEXTS, "namespace": DNS_NAME})
    return closed({"apiVersion": {"const": group_version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})


_SCALING = closed(
    {
        "policies": listed(
            closed(
                {
                    "type": {"enum": ["Pods", "Percent"]},
                    "value": {"type": "integer", "minimum": 1},
                    "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800},
                }
            )
        )
    },
    {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "selectPolicy": {"enum": ["Max", "Min", "Disabled"]},
    },
)
# KEDA reads metadata as text and takes unknown names in silence, so the names of its Kafka scaler are here.
_KAFKA_TRIGGER = closed(
    {
        "type": {"const": "kafka"},
        "metadata": closed(
            {"bootstrapServers": TEXT, "consumerGroup": TEXT},
            {
                "topic": TEXT,
                "lagThreshold": {"type": "string", "pattern": "^[0-9]+$"},
                "activationLagThreshold": {"type": "string", "pattern": "^[0-9]+$"},
                "offsetResetPolicy": {"enum": ["latest", "earliest"]},
                "allowIdleConsumers": {"enum": ["true", "false"]},
                "limitToPartitionsWithLag": {"enum": ["true", "false"]},
                "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
                "sasl": {"enum": ["none", "plaintext", "scram_sha256", "scram_sha512", "oauthbearer", "gssapi"]},
                "tls": {"enum": ["enable", "disable"]},
            },
        ),
    },
    {"name": TEXT, "authenticationRef": closed({"name": DNS_NAME}, {"kind": TEXT})},
)
_ACL = closed(
    {
        "resource": closed(
            {
                "type": {"enum": ["topic", "group", "cluster", "transactionalId"]},
                "name": TEXT,
                "patternType": {"enum": ["literal", "prefix"]},
            }
        ),
        "operations": listed(
            {
                "enum": [
                    *("Read", "Write", "Create", "Delete", "Alter", "Describe", "ClusterAction", "AlterConfigs"),
                    *("DescribeConfigs", "IdempotentWrite", "All"),
                ]
            }
        ),
    },
    {"type": {"enum": ["allow", "deny"]}, "host": TEXT},
)
_RULE: Schema = {
    "oneOf": [
        closed({"record": TEXT, "expr": TEXT}, {"labels": TEXTS}),
        closed({"alert": TEXT, "expr": TEXT}, {"for": DURATION, "labels": TEXTS, "annotations": TEXTS}),
    ]
}
_AUTHORIZATION = closed({"credentials": closed({"name": DNS_NAME, "key": TEXT})}, {"type": TEXT})
_KEY_OF = closed({"parameter": TEXT, "name": DNS_NAME, "key": TEXT})

SCHEMAS: dict[str, Schema] = {
    "KafkaTopic": resource(
        "kafka.strimzi.io/v1",
        "KafkaTopic",
        closed(
            {"partitions": {"type": "integer", "minimum": 1}},
            {
                "topicName": TEXT,
                "replicas": {"type": "integer", "minimum": 1, "maximum": 32767},
                "config": {"type": "object", "additionalProperties": {"type": ["string", "integer", "boolean"]}},
            },
        ),
    ),
    "KafkaUser": resource(
        "kafka.strimzi.io/v1",
        "KafkaUser",
        closed(
            {
                "authentication": closed({"type": {"enum": ["tls", "tls-external", "scram-sha-512"]}}),
                "authorization": closed({"type": {"const": "simple"}, "acls": listed(_ACL)}),
            }
        ),
    ),
    "ScaledObject": resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        closed(
            {"scaleTargetRef": closed({"name": DNS_NAME}), "triggers": listed(_KAFKA_TRIGGER)},
            {
                **dict.fromkeys(("minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod"), COUNT),
                "fallback": closed(
                    {"failureThreshold": COUNT, "replicas": COUNT},
                    {
                        "behavior": {
                            "enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
                        }
                    },
                ),
                "advanced": closed(
                    {
                        "horizontalPodAutoscalerConfig": closed(
                            {"behavior": closed({}, {"scaleUp": _SCALING, "scaleDown": _SCALING})}
                        )
                    }
                ),
            },
        ),
    ),
    "TriggerAuthentication": resource(
        "keda.sh/v1alpha1",
        "TriggerAuthentication",
        closed({}, {"secretTargetRef": listed(_KEY_OF), "configMapTargetRef": listed(_KEY_OF)}),
    ),
    "PodMonitor": resource(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        closed(
            {
                "selector": closed({"matchLabels": TEXTS}),
                "podMetricsEndpoints": listed(
                    closed(
                        {"port": TEXT},
                        {
                            "path": TEXT,
                            "interval": DURATION,
                            "scrapeTimeout": DURATION,
                            "authorization": _AUTHORIZATION,
                        },
                    )
                ),
            },
            {"jobLabel": TEXT, "podTargetLabels": listed(TEXT)},
        ),
    ),
    "PrometheusRule": resource(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        closed({"groups": listed(closed({"name": TEXT, "rules": listed(_RULE)}, {"interval": DURATION}))}),
    ),
}


def validate(manifest: Manifest) -> None:
    """Nothing, if the custom resource is one of these and right.

    Raises:
        jsonschema.ValidationError: it is not as published.
        KeyError: no such kind is known here.
    """
    jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])
