"""Profiles: a YAML file each, with everything that changes with the hardware, and nothing else.

A profile is a plain nested dict, sections and settings: `profile["rta"]["steps"]`. What there is to set, of which type
and in which range, is said in one place, the models of `profiles.settings`; `describe()` prints it.
"""

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from agenticrec_lite.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

# The models are imported where they are used: pydantic takes a tenth of a second, and most commands do without it.


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 3e-5 as a string, because it has no dot; a learning rate is a number here."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def parse_value(text: str) -> Any:
    """The value that `text` would have in a profile file: "80" -> 80, "3e-5" -> 3e-05, "none" -> "none".

    Raises:
        UserError: `text` is not a YAML value.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, RecursionError, yaml.YAMLError):
        raise UserError(
            f"{text!r} is not a value that a profile can hold; write a number, a word or [a, list]."
        ) from None


def profile_names() -> list[str]:
    """Names of the profiles that ship with the package, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )


def load_profile(name: str | Path, /, **overrides: Any) -> dict[str, Any]:
    """Read a profile, lay its short budget over it if asked for, then the overrides.

    The environment variable AGENTICREC_BUDGET=short lays the profile's section `short` over the others: tests
    run the whole way with it. The section itself is not part of the result.

    Args:
        name: A profile that ships with the package, e.g. "nano"; or a YAML file of your own, e.g. "mine.yaml". A file
            holds only what differs from nano, or from the shipped profile that its line `based_on: t4` names.
        **overrides: Settings by dotted name, `load_profile("nano", **{"rta.steps": 10})`, or by section,
            `load_profile("nano", rta={"steps": 10})`.

    Returns:
        Nested dict, sections -> settings.

    Raises:
        UserError: An unknown profile, setting or budget, a file that cannot be read, or a value of a wrong type or out
            of its range.
    """
    from agenticrec_lite.profiles.settings import checked

    budget = os.environ.get("AGENTICREC_BUDGET", "")
    if budget not in ("", "short"):
        raise UserError(f"AGENTICREC_BUDGET is {budget!r}; it can only be 'short', or not set.")
    own = _is_file(name)
    read = _read_own(Path(name)) if own else _read_shipped(name)
    short = read.pop("short", {})
    full = checked(read, str(name), own)
    if not isinstance(short, Mapping):
        raise UserError(f"Setting 'short' in {name} must be a section of settings, not {short!r}.")
    small = checked(_lay_over(full, short), str(name), own)  # whether it is asked for or not: a mistake shows at once
    return checked(_lay_over(small if budget else full, overrides), str(name))


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run, which an earlier version may have written, with the settings that came later."""
    from agenticrec_lite.profiles.settings import with_defaults

    return with_defaults(config) if "policy" in config else dict(config)


def describe(section: str | None = None, profile: str | Path = "nano") -> "pd.DataFrame":
    """What there is to set: a row a setting, in the order of a profile file.

    Args:
        section: Only this section, e.g. "rta" or "agent.vllm", or only this setting; None for all.
        profile: Whose values to show, as in `load_profile`.

    Returns:
        Columns setting (dotted name), type and range in words, value (in the profile), meaning.

    Raises:
        UserError: An unknown section or profile.
    """
    import pandas as pd

    from agenticrec_lite.profiles.settings import allowed, each_setting, kind

    values, rows = load_profile(profile), []
    for setting, field in each_setting():
        if section and not f"{setting}.".startswith(f"{section}."):
            continue
        value: Any = values
        for name in setting.split("."):
            value = value[name]
        rows.append((setting, kind(field), allowed(field), value, field.description))
    if not rows:
        raise UserError(f"Profile {str(profile)!r} has no setting {section!r}; its sections are: {', '.join(values)}.")
    return pd.DataFrame(rows, columns=["setting", "type", "range", "value", "meaning"], dtype=object)


def _is_file(name: str | Path) -> bool:
    """Whether a profile is a file of the user's; the name of a shipped one never is."""
    if isinstance(name, Path):
        return True
    return name not in profile_names() and (str(name).endswith((".yaml", ".yml")) or os.path.isfile(str(name)))


def _read_shipped(name: str, file: str = "") -> dict[str, Any]:
    """A profile of the package as its file has it; `file` is what names it, for the error."""
    if name not in profile_names():
        place = f" in {file}" if file else ""
        raise UserError(f"Unknown profile {name!r}{place}; the known ones are: {', '.join(profile_names())}.")
    settings = yaml.load(files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"), Loader=_Loader)
    return _lay_over(_read_shipped(settings.pop("based_on")), settings) if "based_on" in settings else settings


def _read_own(path: Path) -> dict[str, Any]:
    """A user's file, laid over the shipped profile that it is based on."""
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(
            f"There is no file {path}; a profile is a YAML file, or one of: {', '.join(profile_names())}."
        ) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as a profile: {reason}.") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} cannot be read as a profile: it holds no sections, such as rta, with settings.")
    return _lay_over(_read_shipped(settings.pop("based_on", "nano"), str(path)), settings)


def _lay_over(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `changes`, which hold dotted names, nested mappings or both."""
    result = dict(settings)
    for name, value in changes.items():
        section, _, rest = str(name).partition(".")
        if rest:
            value = {rest: value}
        old = result.get(section)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[section] = _lay_over(old, value) if nested else value
    return result
