{{/* Name of everything: the release's, with the chart's where it does not say so itself. */}}
{{- define "stockflow.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of this release. Selectors cannot be changed once they stand. */}}
{{- define "stockflow.selector" -}}
app.kubernetes.io/name: stockflow
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "stockflow.labels" -}}
{{ include "stockflow.selector" . }}
app.kubernetes.io/part-of: stockflow
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "stockflow.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "stockflow.partitions" -}}
{{- int (index .Values.settings "STOCKFLOW_PARTITIONS") -}}
{{- end -}}

{{/* Of the autoscalers. A rollout adds one replica for a moment, and one without partitions is never ready. */}}
{{- define "stockflow.maxReplicas" -}}
{{- $partitions := int (include "stockflow.partitions" .) -}}
{{- $most := int .Values.autoscaling.maxReplicas | default (max 1 (sub $partitions 1)) | int -}}
{{- if gt $most $partitions -}}
{{- fail (printf "autoscaling.maxReplicas is %d, but only %d partitions can be shared" $most $partitions) -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.minReplicas) $most -}}
{{- fail (printf "autoscaling.minReplicas is more than the %d replicas that partitions or maxReplicas allow" $most) -}}
{{- end -}}
{{- $most -}}
{{- end -}}

{{/* Bytes at rest by the cost model of README.md, twice, and 160 MiB for the program; in steps of 128 MiB. */}}
{{- define "stockflow.memory" -}}
{{- if .Values.resources.memory -}}
{{- .Values.resources.memory -}}
{{- else -}}
{{- $s := .Values.sizing -}}
{{- $balances := mul 306 (int64 $s.balances) -}}
{{- $networks := mul 530 (int64 $s.skus) -}}
{{- $facts := add (mul 184 (int64 $s.factsRemembered)) (mul 500 (min (int64 $s.balances) (int64 $s.factsRemembered))) -}}
{{- $orders := mul 900 (int64 $s.ordersRemembered) -}}
{{- $mebibytes := add 160 (div (mul 2 (add $balances $networks $facts $orders)) 1048576) -}}
{{- $steps := div (add $mebibytes 127) 128 -}}
{{- if eq (mod $steps 8) 0 -}}{{ div $steps 8 }}Gi{{- else -}}{{ mul $steps 128 }}Mi{{- end -}}
{{- end -}}
{{- end -}}

{{- define "stockflow.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "stockflow.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Name of the KafkaUser of a component. */}}
{{- define "stockflow.user" -}}
{{- if eq .component "pipeline" -}}{{ include "stockflow.fullname" .root }}{{- else -}}{{ include "stockflow.fullname" .root }}-{{ .component }}{{- end -}}
{{- end -}}

{{/* Pod fields that all components share. Takes root, component. */}}
{{- define "stockflow.podShared" -}}
serviceAccountName: {{ include "stockflow.fullname" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "stockflow.podSecurity" .root | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Where settings and secrets come from. Takes root, component, credentials. */}}
{{- define "stockflow.containerSettings" -}}
image: {{ include "stockflow.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
envFrom:
  - configMapRef:
      name: {{ include "stockflow.fullname" .root }}
  - configMapRef:
      name: {{ .credentials }}
      optional: true
{{- if .root.Values.strimzi.enabled }}
env:
  {{- if eq .root.Values.strimzi.authentication "tls" }}
  - name: STOCKFLOW_KAFKA__SECURITY_PROTOCOL
    value: SSL
  - name: STOCKFLOW_KAFKA__SSL_CERTIFICATE_LOCATION
    value: /run/secrets/kafka-user/user.crt
  - name: STOCKFLOW_KAFKA__SSL_KEY_LOCATION
    value: /run/secrets/kafka-user/user.key
  {{- else }}
  - name: STOCKFLOW_KAFKA__SECURITY_PROTOCOL
    value: SASL_SSL
  - name: STOCKFLOW_KAFKA__SASL_MECHANISM
    value: SCRAM-SHA-512
  - name: STOCKFLOW_KAFKA__SASL_USERNAME
    value: {{ include "stockflow.user" . }}
  - name: STOCKFLOW_KAFKA__SASL_PASSWORD_FILE
    value: /run/secrets/kafka-user/password
  {{- end }}
  - name: STOCKFLOW_KAFKA__SSL_CA_LOCATION
    value: /run/secrets/kafka-ca/ca.crt
{{- end }}
securityContext:
  {{- include "stockflow.containerSecurity" .root | nindent 2 }}
{{- end -}}

{{- define "stockflow.mounts" -}}
- name: credentials
  mountPath: /run/secrets/stockflow
  readOnly: true
{{- if .root.Values.strimzi.enabled }}
- name: kafka-user
  mountPath: /run/secrets/kafka-user
  readOnly: true
- name: kafka-ca
  mountPath: /run/secrets/kafka-ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "stockflow.volumes" -}}
- name: credentials
  secret:
    secretName: {{ .credentials }}
    defaultMode: 0440
    optional: true
{{- if .root.Values.strimzi.enabled }}
- name: kafka-user
  secret:
    secretName: {{ include "stockflow.user" . }}
    defaultMode: 0440
    items:
      {{- if eq .root.Values.strimzi.authentication "tls" }}
      - key: user.crt
        path: user.crt
      - key: user.key
        path: user.key
      {{- else }}
      - key: password
        path: password
      {{- end }}
- name: kafka-ca
  secret:
    secretName: {{ .root.Values.strimzi.cluster }}-cluster-ca-cert
    defaultMode: 0440
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- end -}}
