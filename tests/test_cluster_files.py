"""cluster.yaml against Ray's own schema; the RayJob manifest against what KubeRay reads of it."""

import copy
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from fastdistill_ray.recipe.loading import load_recipe

ROOT = Path(__file__).parent.parent
RUN_DIR = ["--run-dir", "/runs/gsm8k"]
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
POD = {
    "type": "object",
    "additionalProperties": False,
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["containers", "volumes"],
            "properties": {
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "image", "resources", "volumeMounts"],
                        "properties": {
                            "name": {"type": "string", "pattern": "^[a-z0-9-]+$"},
                            "image": {"type": "string", "pattern": ":[A-Za-z0-9_.-]+$"},
                            "env": {"type": "array", "items": {"required": ["name"]}},
                            "resources": {
                                "type": "object",
                                "additionalProperties": False,
                                # A quantity written as a number is accepted, then rewritten.
                                "properties": {"limits": STRINGS, "requests": STRINGS},
                            },
                            "volumeMounts": {
                                "type": "array",
                                "items": {"required": ["name", "mountPath"]},
                            },
                        },
                    },
                },
                "volumes": {"type": "array", "items": {"required": ["name"]}},
            },
        }
    },
}
GROUP = {"rayStartParams": STRINGS, "template": POD}
COUNT = {"type": "integer", "minimum": 0}
RAYJOB = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object", "minProperties": 1},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["entrypoint", "rayClusterSpec"],
            "properties": {
                "entrypoint": {"type": "string"},
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
                "backoffLimit": COUNT,
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
                "rayClusterSpec": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["rayVersion", "headGroupSpec", "workerGroupSpecs"],
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "autoscalerOptions": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {"idleTimeoutSeconds": COUNT},
                        },
                        "headGroupSpec": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["rayStartParams", "template"],
                            "properties": GROUP,
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["groupName", "rayStartParams", "template"],
                                "properties": {
                                    **GROUP,
                                    "groupName": {"type": "string"},
                                    "replicas": COUNT,
                                    "minReplicas": COUNT,
                                    "maxReplicas": COUNT,
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def rayjob() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "jobs" / "rayjob.yaml").read_text(encoding="utf-8"))


def check_with_ray(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))


def pods(rayjob: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = rayjob["spec"]["rayClusterSpec"]
    groups = {"head": spec["headGroupSpec"]}
    groups |= {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return groups


def test_cluster_file_as_written_is_valid_for_ray(cluster: dict[str, Any]) -> None:
    check_with_ray(cluster)


def test_cluster_file_unknown_key_is_refused_by_ray(cluster: dict[str, Any]) -> None:
    cluster["idle_timeout"] = 10
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        check_with_ray(cluster)


def test_cluster_file_node_types_are_a_cpu_head_and_two_kinds_of_gpu_workers(
    cluster: dict[str, Any],
) -> None:
    types = cluster["available_node_types"]
    gpus = {name: node["resources"].get("GPU", 0) for name, node in types.items()}
    assert gpus == {"head": 0, "teacher": 4, "student": 8}
    assert cluster["head_node_type"] == "head"
    for name in ("teacher", "student"):
        assert types[name]["min_workers"] == 0 < types[name]["max_workers"]
    assert sum(node["max_workers"] for node in types.values()) <= cluster["max_workers"]


def test_cluster_file_setup_installs_this_project_from_the_synced_folder(
    cluster: dict[str, Any],
) -> None:
    (remote,) = [path for path, local in cluster["file_mounts"].items() if local == "."]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = remote.replace("~", "$HOME") + "[gpu]"
    words = [shlex.split(command) for command in cluster["setup_commands"]]
    assert any(wanted in each and "install" in each for each in words)
    assert "gpu" in extras["optional-dependencies"]


def test_cluster_file_sync_leaves_out_what_git_ignores(cluster: dict[str, Any]) -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert cluster["rsync_filter"] == [".gitignore"]
    assert {".venv/", "runs/"} <= set(ignored)
    assert {".git", ".venv", "runs"} <= set(cluster["rsync_exclude"])


def test_rayjob_as_written_matches_the_schema(rayjob: dict[str, Any]) -> None:
    jsonschema.validate(rayjob, RAYJOB)


@pytest.mark.parametrize("value", [1, True])
def test_rayjob_start_parameter_not_a_string_is_refused(rayjob: dict[str, Any], value: Any) -> None:
    pods(rayjob)["teacher"]["rayStartParams"]["num-gpus"] = value
    with pytest.raises(jsonschema.ValidationError, match="not of type 'string'"):
        jsonschema.validate(rayjob, RAYJOB)


def test_rayjob_unknown_key_is_refused(rayjob: dict[str, Any]) -> None:
    rayjob["spec"]["entryPoint"] = "python"
    with pytest.raises(jsonschema.ValidationError, match="entryPoint"):
        jsonschema.validate(rayjob, RAYJOB)


def test_rayjob_entrypoint_runs_the_gsm8k_recipe_into_the_shared_volume(
    rayjob: dict[str, Any],
) -> None:
    command = rayjob["spec"]["entrypoint"]
    script, recipe, *flags = shlex.split(command.removeprefix("python "))
    assert (script, recipe, flags[:2]) == ("jobs/distill.py", "jobs/recipes/gsm8k.yaml", RUN_DIR)
    pools = load_recipe(str(ROOT / recipe), flags[2:]).pools
    assert pools.autoscaling
    for name in ("teacher", "student"):
        ((label, value),) = getattr(pools, name).labels.items()
        assert pods(rayjob)[name]["rayStartParams"]["labels"] == f"{label}={value}"
    assert set(pods(rayjob)) == {"head", "teacher", "student"}
    for group in pods(rayjob).values():
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert "claimName" in volumes["runs"]["persistentVolumeClaim"]
        for container in pod["containers"]:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts["runs"] == "/runs"
            assert set(mounts) == set(volumes)


def test_rayjob_secrets_come_from_a_secret_never_from_the_file(rayjob: dict[str, Any]) -> None:
    for group in pods(rayjob).values():
        (container,) = group["template"]["spec"]["containers"]
        (token,) = [entry for entry in container["env"] if entry["name"] == "HF_TOKEN"]
        assert set(token) == {"name", "valueFrom"}
        assert "secretKeyRef" in token["valueFrom"]


def test_rayjob_gpus_ray_counts_are_those_the_pod_is_given(rayjob: dict[str, Any]) -> None:
    for group in pods(rayjob).values():
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        assert container["resources"]["requests"] == limits
        gpus = limits.get("nvidia.com/gpu", "0")
        assert group["rayStartParams"]["num-gpus"] == gpus


def test_cluster_files_ray_version_is_the_one_of_the_project(rayjob: dict[str, Any]) -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (pin,) = [match for line in dependencies if (match := re.search(r"^ray\[.*==(.+)$", line))]
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == pin[1]


def test_rayjob_image_is_the_one_that_the_dockerfile_says_how_to_build(
    rayjob: dict[str, Any],
) -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    images = {
        container["image"]
        for group in pods(rayjob).values()
        for container in group["template"]["spec"]["containers"]
    }
    assert images == set(re.findall(r"docker build --target cuda -t (\S+) \.", text))
    assert re.findall(r"^FROM \S+ AS (\w+)$", text, re.M) == ["base", "cpu", "cuda"]
    copied = {one for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for one in line.split()}
    assert all((ROOT / one).exists() for one in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(re.findall(r"\.\[(\w+)\]", text)) <= set(extras["optional-dependencies"])


def test_cluster_file_nodes_of_teachers_and_students_have_labels_and_one_token(
    cluster: dict[str, Any],
) -> None:
    types = cluster["available_node_types"]
    assert {types[name]["labels"]["pool"] for name in ("teacher", "student")} == {
        "teacher",
        "student",
    }
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in cluster[name][-1]
