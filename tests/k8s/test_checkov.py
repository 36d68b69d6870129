"""What checkov says about the manifests and the Dockerfile, and why some of it is not followed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.k8s.tools import K8S, ROOT, helm, run

CHECKOV = ROOT / ".cache" / "k8s-tools" / "bin" / "checkov"
NOT_FOLLOWED = {
    "CKV_K8S_11": "no CPU limit: being throttled is update latency, and long enough it costs the lease",
    "CKV_K8S_15": "a tag is a version and never moves, so a node need not ask for it at each start",
    "CKV_K8S_21": "the namespace is the caller's",
    "CKV_K8S_43": "a digest exists once the image is pushed: image.digest",
    "CKV_DOCKER_2": "Kubernetes has probes and ignores HEALTHCHECK",
    "CKV_DOCKER_7": "the base image is an argument, with a tag that is not latest",
}


def test_findings_are_only_those_with_a_reason(tmp_path: Path) -> None:
    """Everything of checkov's that is not listed above holds, and nothing is listed in vain."""
    if not CHECKOV.exists():
        pytest.skip("checkov does not install on this machine")
    (tmp_path / "production.yaml").write_text(helm("-f", str(K8S / "overlays/production/values.yaml")))
    (tmp_path / "defaults.yaml").write_text(helm())
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    found = run(
        *(str(CHECKOV), "--directory", str(tmp_path), "--framework", "kubernetes", "dockerfile"),
        *("--skip-download", "--output", "json"),
    )
    reports = json.loads(found.stdout)
    assert sorted(report["check_type"] for report in reports) == ["dockerfile", "kubernetes"]
    assert min(report["summary"]["passed"] for report in reports) > 50
    failed = {check["check_id"] for report in reports for check in report["results"]["failed_checks"]}
    assert failed == set(NOT_FOLLOWED)
