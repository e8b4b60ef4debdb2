"""Files in output_yamls: one deployment, its names as users know them, nothing left of earlier ones."""

from __future__ import annotations

import yaml
from deployments import deploying, epd_guide, hybrid_guide, rendered

from pymotor.deployer.yaml_files import directory_of, write_yaml


def names(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.yaml"))


def test_the_set_is_one_file(tmp_path):
    out = tmp_path / "out"
    write_yaml(rendered(tmp_path, hybrid_guide(), cluster_token="0123456789abcdef"), out)

    assert names(out) == ["disruption_budgets.yaml", "infer_service.yaml", "motor_config.yaml", "service_accounts.yaml"]
    (whole,) = yaml.safe_load_all((out / "infer_service.yaml").read_text(encoding="utf-8"))
    assert whole["kind"] == "InferServiceSet"
    assert "0123456789abcdef" not in "".join(path.read_text(encoding="utf-8") for path in out.glob("*"))
    assert "MDEyMzQ1Njc4OWFiY2RlZg" not in "".join(path.read_text(encoding="utf-8") for path in out.glob("*"))


def test_each_engine_has_a_file(tmp_path):
    out = tmp_path / "out"
    write_yaml(rendered(tmp_path, epd_guide()), out)

    assert [name for name in names(out) if name.startswith("vllm")] == [
        "vllm_d0.yaml",
        "vllm_e0.yaml",
        "vllm_e1.yaml",
        "vllm_p0.yaml",
    ]


def test_what_is_no_more_leaves_no_file(tmp_path):
    out = tmp_path / "out"
    write_yaml(rendered(tmp_path, epd_guide()), out)
    write_yaml(rendered(tmp_path, deploying(epd_guide(), e_instances_num=1)), out)

    assert "vllm_e1.yaml" not in names(out)


def test_two_deployments_of_one_checkout_keep_their_files(tmp_path):
    out = tmp_path / "out"
    first, second = (rendered(tmp_path, deploying(hybrid_guide(), job_id=job)) for job in ("first", "second"))
    write_yaml(first, out)
    write_yaml(second, out)

    assert directory_of(out, "second") == out
    assert directory_of(out, "first") == out / "first"
    assert directory_of(out, "third") is None
    write_yaml(first, out)
    assert directory_of(out, "first") == out
    assert directory_of(out, "second") == out / "second"
    assert not (out / "first").exists()


def test_the_files_say_what_was_rendered(tmp_path):
    out = tmp_path / "out"
    manifests = rendered(tmp_path, epd_guide())
    paths = write_yaml(manifests, out)

    read = [one for path in paths for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]

    assert sorted(map(str, read)) == sorted(map(str, manifests))
