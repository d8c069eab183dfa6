"""The stored vectors pass; the same vectors with one value changed do not; unusable input is explained."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unigrpo.conformance import IMPLEMENTED
from unigrpo.conformance.__main__ import main, run
from unigrpo.core.errors import UserError

VECTORS = Path(__file__).parents[1] / "vectors"


def exit_code(folder, *flags):
    try:
        main([str(folder), *flags])
    except SystemExit as stop:
        return stop.code
    return 0


def copied(family, folder, prefix=""):
    for path in VECTORS.glob(f"{family}.*"):
        shutil.copy(path, folder / (prefix + path.name))
    return folder


def changed_tensor(folder, family, name):
    path = copied(family, folder) / f"{family}.safetensors"
    tensors = load_file(path)
    flat = tensors[name].flatten()
    if flat.dtype == torch.bool:
        flat[-1] = ~flat[-1]
    else:
        flat[-1] += 1 if not flat.is_floating_point() else 1e-2 * max(flat.abs().max().item(), 1e-2)
    tensors[name] = flat.view(tensors[name].shape)
    save_file(tensors, path)


def changed_json(folder, family, *keys):
    """Changes the number, truth value or text behind ``keys`` (in the first line of a .jsonl)."""
    (path,) = (p for p in copied(family, folder).iterdir() if p.suffix.startswith(".json"))
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    document = json.loads(lines[0])
    holder = document
    for key in keys[:-1]:
        holder = holder[key]
    old = holder[keys[-1]]
    holder[keys[-1]] = (not old) if isinstance(old, bool) else old + ("x" if isinstance(old, str) else 0.01)
    path.write_text("\n".join([json.dumps(document), *lines[1:]]))


def test_every_implemented_feature_is_stored_and_passes(capsys):
    assert exit_code(VECTORS, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["features"]) == set(IMPLEMENTED) and report["passed"]
    assert all(f["passed"] == f["cases"] > 0 for f in report["features"].values())
    assert not set(report["not_implemented"]) & set(IMPLEMENTED)


@pytest.mark.parametrize(
    ("family", "tensor"),
    [
        ("sde_steps", "0000.mean"),
        ("sde_steps", "0000.std"),
        ("sde_steps", "0000.log_prob"),
        ("sde_steps", "0000.grad_v"),
        ("sde_steps", "0048.log_prob"),
        ("sde_steps", "0135.log_prob"),
        ("sde_steps", "0001.mean"),
        ("sde_steps", "0001.std"),
        ("sde_steps", "0001.log_prob"),
        ("sde_steps", "0049.grad_v"),
        ("sde_steps", "0106.mean"),
        ("sde_steps", "0136.log_prob"),
        ("sde_steps", "0080.std"),
        ("sde_steps", "0112.log_prob"),
        ("sde_steps", "0123.grad_v"),
        ("ratio_norm", "0006.flow_grpo_plain.loss"),
        ("ratio_norm", "0006.flow_grpo_plain.ratio"),
        ("ratio_norm", "0000.flow_grpo_guard.loss"),
        ("ratio_norm", "0006.verl_omni_guard.grad_v"),
        ("ratio_norm", "0006.indep_unirl.ratio"),
        ("ratio_norm", "0006.indep_unirl.loss"),
        ("ratio_norm", "0006.flow_grpo_kl.loss"),
        ("ratio_norm", "0006.indep_velocity_mse.grad_v"),
        ("text_grpo", "0000.loss"),
        ("text_grpo", "0000.grad_new"),
        ("extra_algos", "fpo00.rho"),
        ("extra_algos", "fpo01.grad_cfm_new"),
        ("extra_algos", "awm04.log_prob"),
        ("extra_algos", "awm01.kl_loss"),
        ("extra_algos", "awm02.grad_v"),
        ("extra_algos", "nft00.policy_loss"),
        ("extra_algos", "nft03.grad_v"),
        ("bagel_tiny", "expected.A.attention_mask_0"),
        ("bagel_tiny", "input.A.packed_position_ids"),
        ("bagel_tiny", "expected.A.ce"),
        ("bagel_tiny", "expected.A.grad_l2"),
        ("bagel_tiny", "expected.B.cache_k"),
        ("bagel_tiny", "expected.B.greedy_tokens"),
        ("bagel_tiny", "expected.C.velocity_empty_context"),
        ("bagel_tiny", "expected.C.block_position_ids"),
        ("bagel_tiny", "expected.D.nocfg.x"),
        ("bagel_tiny", "expected.D.cfg4.v"),
        ("bagel_tiny", "expected.E.latent_position_ids"),
        ("bagel_tiny", "language_model.model.layers.0.mlp_moe_gen.up_proj.weight"),
        ("bagel_tiny", "expected.A2.attention_mask_0"),
        ("bagel_tiny", "expected.A2.last_hidden"),
        ("bagel_tiny", "expected.A2.mse"),
        ("bagel_tiny", "expected.A2.grad_l2"),
        ("bagel_tiny", "input.A2.packed_vit_position_ids"),
        ("bagel_tiny", "expected.D.think.x"),
        ("bagel_tiny", "expected.D.think.block_position"),
        ("bagel_tiny", "expected.D.renorm_global_min0p5"),
        ("bagel_tiny", "expected.D.renorm_channel"),
        ("bagel_tiny", "expected.D.renorm_text_channel_textonly"),
        ("bagel_tiny", "expected.F.vit_output"),
        ("bagel_tiny", "expected.F.greedy_tokens"),
        ("bagel_tiny", "expected.G.positions"),
        ("bagel_tiny", "expected.G.vae_block_cache_k"),
        ("bagel_tiny", "expected.G.velocity_cfg"),
        ("bagel_tiny", "vit_model.vision_model.embeddings.patch_embedding.weight"),
        ("bagel_tiny_vae", "expected.moments"),
        ("bagel_tiny_vae", "expected.latent_mode"),
        ("bagel_tiny_vae", "expected.decoded"),
        ("bagel_tiny_vae", "decoder.conv_out.bias"),
    ],
)
def test_one_changed_number_fails(tmp_path, capsys, family, tensor):
    changed_tensor(tmp_path, family, tensor)
    assert exit_code(tmp_path) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["loss", "grad_new"])
def test_every_text_feature_notices_a_changed_number(tmp_path, name):
    path = copied("text_grpo", tmp_path) / "text_grpo.safetensors"
    changed = {k: (1.001 * t if k.endswith(f".{name}") else t) for k, t in load_file(path).items()}
    save_file(changed, path)
    tallies, _ = run(tmp_path)
    assert len(tallies) == sum(feature.startswith("text_grpo/") for feature in IMPLEMENTED)
    assert all(tally.failures for tally in tallies.values())


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("extra_algos", ("advantages", 0, "advantages", 0)),
        ("extra_algos", ("schedules", 1, "unirl_static", 1)),
        ("extra_algos", ("schedules", 1, "diffusers_set_timesteps", 2)),
        ("sde_steps", ("cases", 0, "noise_level")),
        ("extra_algos", ("ema", 2, "ema", 5, 1)),
        ("extra_algos", ("ema", 0, "update_step_interval")),
        ("extra_algos", ("nft_decay", 24, "decay")),
        ("extra_algos", ("mixgrpo", 1, "windows", 9, 0)),
        ("extra_algos", ("mixgrpo", 0, "windows", 10, 1)),
        ("text_grpo", ("cases", 0, "metrics", "clip_ratio/high_mean")),
        ("text_grpo", ("cases", 2, "metrics", "clip_ratio/low_mean")),
        ("text_grpo", ("cases", 16, "metrics", "kl")),
        ("text_grpo", ("cases", 21, "metrics", "cispo_clip_ratio")),
        ("text_grpo", ("cases", 17, "delta")),
        ("text_grpo", ("cases", 19, "entropy_coef")),
        ("geneval_cases", ("verdict", "correct")),
        ("geneval_cases", ("verdict", "reason_canonical")),
        ("geneval_cases", ("verdict", "reward_score")),
        ("geneval_filter_cases", ("kept", "person", 0, 4)),
        ("geneval_filter_cases", ("correct",)),
    ],
)
def test_one_changed_entry_fails(tmp_path, family, keys):
    changed_json(tmp_path, family, *keys)
    assert exit_code(tmp_path) == 1


def test_weights_of_another_autoencoder_are_refused(tmp_path):
    path = copied("bagel_tiny_vae", tmp_path) / "bagel_tiny_vae.safetensors"
    save_file({k: t for k, t in load_file(path).items() if k != "decoder.up.2.upsample.conv.bias"}, path)
    with pytest.raises(UserError, match=r"decoder\.up\.2\.upsample\.conv\.bias"):
        run(tmp_path)


def test_a_nan_in_a_stored_result_fails(tmp_path):
    path = copied("text_grpo", tmp_path) / "text_grpo.safetensors"
    tensors = load_file(path)
    tensors["0000.loss"] *= torch.nan
    save_file(tensors, path)
    assert exit_code(tmp_path) == 1


def test_prefixed_files_and_subsets_are_read(tmp_path):
    path = copied("sde_steps", tmp_path, prefix="b_") / "b_sde_steps.json"
    document = json.loads(path.read_text())
    sde, other = ([c for c in document["cases"] if c["kind"] == kind][:1] for kind in ("sde", "cps"))
    document["cases"] = sde + [case | {"kind": "ornstein"} for case in other]
    path.write_text(json.dumps(document))
    tallies, others = run(tmp_path)
    assert {name: tally.cases for name, tally in tallies.items()} == {"sde_steps/sde": 1}
    assert others == {"sde_steps/ornstein": 1}


def test_unusable_input_is_explained(tmp_path):
    with pytest.raises(UserError, match="expected a folder"):
        run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no vector files"):
        run(tmp_path)
    copied("text_grpo", tmp_path)
    (tmp_path / "text_grpo.safetensors").write_bytes(b"\x10")
    with pytest.raises(UserError, match=r"text_grpo.safetensors: expected a safetensors file"):
        run(tmp_path)
    (tmp_path / "text_grpo.safetensors").unlink()
    with pytest.raises(UserError, match=r"text_grpo.safetensors"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cases": [', "sde_steps.json, line 1: not valid JSON"),
        ('{"cases": [{"id": 0}]}', "the key 'kind' is missing"),
        ('{"cases": [{"id": 0, "kind": "sde", "std_is": 1, "mode": "replay"}]}', "sde_steps.json"),
        ('{"cases": 5}', "not readable"),
        ('{"cases": []}', "hold no cases"),
    ],
)
def test_damaged_json_is_explained(tmp_path, text, message):
    copied("sde_steps", tmp_path)
    (tmp_path / "sde_steps.json").write_text(text)
    with pytest.raises(UserError, match=message):
        run(tmp_path)


def test_a_damaged_line_is_named(tmp_path):
    path = copied("geneval_cases", tmp_path) / "geneval_cases.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:50], *lines[2:]]))
    with pytest.raises(UserError, match=r"geneval_cases.jsonl, line 2"):
        run(tmp_path)


def test_command_line_exits_with_2_and_one_message(tmp_path):
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-m", "unigrpo.conformance", str(tmp_path)],
        cwd=root,
        env={"PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and "no vector files" in result.stderr
