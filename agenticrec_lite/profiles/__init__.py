"""Profiles: one YAML file each, with everything that changes with the hardware, and nothing else.

A profile is a plain nested dict of two levels, sections and settings: `profile["rta"]["steps"]`.
"""

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from agenticrec_lite.errors import UserError

# Settings that came later, with the values at which everything is as it was before them.
ADDED = {
    "policy": {"revision": "main", "chat_template": "own", "attention": "sdpa", "gradient_checkpointing": False},
    "warm_start": {"steps": 0, "batch": 8, "micro_batch": 8, "learning_rate": 1e-3, "warmup_steps": 4},
    "agent": {"engine": "own", "vllm": {
        "mode": "colocate", "gpu_memory_utilization": 0.3, "tensor_parallel_size": 1, "enable_sleep_mode": False,
        "server_base_url": None,
    }},
    "tracking": {"report_to": "none"},
    "tasks": {"n_candidates": 20, "history_length": 10, "min_history": 3},
    "rta": {"save_every": 1}, "ppr": {"save_every": 1},
}  # fmt: skip

ONE_OF = {
    "policy.dtype": ("float32", "bfloat16", "float16"), "policy.quantize": ("nf4", "none"),
    "policy.attention": ("sdpa", "eager"), "policy.lora.targets": ("all-linear",), "agent.engine": ("own", "vllm"),
}  # fmt: skip
LEAST = {"steps": 0, "warmup_steps": 0, "max_calls": 0, "mining_tasks": 0, "group_size": 2}  # other whole numbers: 1


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 3e-5 as a string, for want of a dot; a learning rate is a number here."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def parse_value(text: str) -> Any:
    """The value that `text` would have in a profile file: "80" -> 80, "3e-5" -> 3e-05, "none" -> "none".

    Raises:
        UserError: `text` is not a YAML value.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise UserError(
            f"{text!r} is not a value that a profile can hold; write a number, a word or [a, list]."
        ) from None


def profile_names() -> list[str]:
    """Names of the profiles that ship with the package, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )


def load_profile(name: str, /, **overrides: Any) -> dict[str, Any]:
    """Read a profile, lay its short budget over it if asked for, then the overrides.

    The environment variable AGENTICREC_BUDGET=short lays the profile's section `short` over the others: tests
    run the whole way with it. The section itself is not part of the result.

    Args:
        name: a profile's file name without its suffix, e.g. "nano".
        **overrides: settings by dotted name, `load_profile("nano", **{"rta.steps": 10})`, or by section,
            `load_profile("nano", rta={"steps": 10})`. A value keeps the type of the one it replaces.

    Returns:
        Nested dict, sections -> settings.

    Raises:
        UserError: an unknown profile, setting or budget, or a value of another type or out of its range.
    """
    if name not in profile_names():
        raise UserError(f"Unknown profile {name!r}; the known ones are: {', '.join(profile_names())}.")
    profile = yaml.load(files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"), Loader=_Loader)
    short = profile.pop("short", {})
    budget = os.environ.get("AGENTICREC_BUDGET", "")
    if budget not in ("", "short"):
        raise UserError(f"AGENTICREC_BUDGET is {budget!r}; it can only be 'short', or not set.")
    if budget == "short":
        _lay_over(profile, short, name)
    _lay_over(profile, overrides, name)
    return profile


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run, which an earlier version may have written, with the settings that came later."""
    if "policy" not in config:
        return dict(config)
    return {**config, **{section: {**added, **config.get(section, {})} for section, added in ADDED.items()}}


def _lay_over(profile: dict[str, Any], changes: Mapping[str, Any], name: str, prefix: str = "") -> None:
    """Replace settings of `profile` in place; `changes` holds dotted names, nested mappings or both."""
    for dotted, value in changes.items():
        section, _, rest = dotted.partition(".")
        if section not in profile:
            known = ", ".join(prefix + key for key in profile)
            raise UserError(f"Profile {name!r} has no setting {prefix + dotted!r}; here it has: {known}.")
        nested = {rest: value} if rest else value
        if isinstance(profile[section], dict) and isinstance(nested, Mapping):
            _lay_over(profile[section], nested, name, f"{prefix}{section}.")
        elif rest:
            raise UserError(f"Profile {name!r} has no setting {prefix + dotted!r}; {prefix + section!r} is a value.")
        else:
            profile[section] = _typed(prefix + section, profile[section], value)


def _typed(setting: str, old: Any, new: Any) -> Any:
    """`new` if it has the type of `old` (an int may stand for a float) and the setting can take it."""
    if kind := _wrong(setting, old, new):
        raise UserError(f"Setting {setting!r} must be {kind}, not {new!r} ({type(new).__name__}).")
    return float(new) if isinstance(old, float) else new


def _wrong(setting: str, old: Any, new: Any) -> str:
    """What a setting would have to be; nothing if `new` is that."""
    number = isinstance(old, float) and type(new) is int
    if old is not None and type(new) is not type(old) and not number:
        return "a section of settings" if isinstance(old, dict) else f"like {old!r} ({type(old).__name__})"
    if setting in ONE_OF and new not in ONE_OF[setting]:
        return " or ".join(ONE_OF[setting])
    name = setting.rpartition(".")[2]
    if type(old) is int and new < LEAST.get(name, 1):
        return f"{LEAST.get(name, 1)} or more"
    if name == "temperature" and not new > 0:
        return "above 0"
    return ""
