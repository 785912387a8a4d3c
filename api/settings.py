"""What an operator can set: a TOML file, then `DESKRELAY_...` variables over it.

Everything is checked here, once, with messages that say what, where, and what to do.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from api.budgets import BudgetSettings
from relay.computer.versions import VERSIONS
from relay.desktops import Separation, Several, parse_run_as, provider_for, separation_for
from relay.dialling.passwords import Password, PasswordFile, PasswordSource
from relay.dialling.workspace_agent import WorkspaceAgentCredentials, client_tls
from relay.limits import Limits
from relay.rfb.encodings import LET_THROUGH, RISKY

__all__ = [
    "DEFAULT_CONFIG",
    "DesktopSettings",
    "ModelSettings",
    "Settings",
    "SettingsProblem",
    "check_address",
    "check_bind",
    "check_desktop",
    "check_geometry",
    "load_settings",
    "parse_limits",
]

DEFAULT_CONFIG: Final = Path("deskrelay.toml")
ENV_PREFIX: Final = "DESKRELAY_"

_MAY_BE_ZERO: Final = frozenset({"idle_timeout_s"})


class SettingsProblem(Exception):
    """Settings that can't be used; the text is one line for the operator."""


def check_desktop(text: str) -> str:
    """`text` if it names a desktop that a workspace can have. Raises ValueError."""
    provider_for(text)
    return text


def check_bind(text: str) -> str:
    """Where to listen: what `check_address` takes, or `unix:PATH`. Raises ValueError."""
    if text.startswith("unix:"):
        if not text.startswith("unix:/"):
            raise ValueError(f"{text!r}: a socket's path is absolute, as in unix:/run/relay.sock")
        return text
    return check_address(text)


def check_address(text: str) -> str:
    """`HOST:PORT` or `[IPv6]:PORT`, port 0 for a free one. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address goes in brackets, as in [::1]:6080")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError(f"{text!r} is not HOST:PORT with a port from 0 to 65535")
    return text


def check_risky(number: int) -> int:
    """`number` if it is an encoding that a setting can let through. Raises ValueError."""
    if number not in RISKY:
        known = ", ".join(map(str, sorted(RISKY)))
        raise ValueError(f"{number} is none of the encodings {known}")
    return number


def parse_limits(values: Mapping[str, object]) -> Limits:
    """Limits from names and values, which may be text. Raises ValueError."""
    known = {f.name: int if isinstance(f.default, int) else float for f in fields(Limits)}
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"there is no limit {name!r}; the limits are {', '.join(known)}")
        kind = known[name]
        what = "a whole number" if kind is int else "a number of seconds"
        try:
            # By way of text: int("1.5") and float("True") fail as they should.
            number = kind(str(value))
        except ValueError:
            raise ValueError(f"limit {name}: {value!r} is not {what}") from None
        if not math.isfinite(number):
            raise ValueError(f"limit {name}: {value!r} is not {what}")
        if number < 0 or (number == 0 and name not in _MAY_BE_ZERO):
            raise ValueError(f"limit {name}: must be more than 0, not {value!r}")
        parsed[name] = number
    return Limits(**parsed)


# Neither user info nor a query; and what a name is made of in ASCII, as browsers write it.
_ORIGIN: Final = r"([A-Za-z]+://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?)"
_PATH: Final = r"((?:/(?!\.\.?(?:/|\Z))[A-Za-z0-9._~-]+)*)"


def _origin(text: str) -> str:
    """`scheme://host[:port]` as browsers write it in `Origin`. Raises ValueError."""
    parts = urlsplit(text)
    port = parts.port  # raises ValueError where it is no port
    plain = re.fullmatch(f"{_ORIGIN}/?", text)
    if plain is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r} is not an origin; write https://HOST or https://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default_port = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if port in (None, default_port) else f":{port}")


def _public_url(text: str) -> str:
    """An origin, and behind it the path that a proxy strips, if any. Raises ValueError."""
    found = re.fullmatch(f"{_ORIGIN}{_PATH}/?", text)
    if found is None:
        raise ValueError(
            f"{text!r} is not an address that people type; write https://HOST, https://HOST:PORT "
            "or https://HOST/PATH"
        )
    return _origin(found[1]) + found[2]


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r} is not an address; write https://HOST or http://HOST:PORT")
    return text


def _comma_separated(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def check_geometry(text: str) -> str:
    """`text` if it is a size that a desktop can be started with. Raises ValueError."""
    provider_for("pattern", geometry=text)
    return text


def _run_as(text: str) -> str:
    parse_run_as(text)
    return text


def _computer_version(text: str) -> str:
    if text not in VERSIONS:
        raise ValueError(f"{text!r} is none of the versions {', '.join(VERSIONS)}")
    return text


def _max_age(value: int, info: ValidationInfo) -> int:
    lifetime_s = info.data.get("token_lifetime_s", 0)  # missing where it is wrong itself
    if value < lifetime_s:
        raise ValueError(f"{value} is less than token_lifetime_s, {lifetime_s}")
    return value


def _limits(value: object) -> Limits:
    if isinstance(value, Limits):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("must be a table of names and values")
    return parse_limits(value)


Origin = Annotated[str, AfterValidator(_origin)]
Bind = Annotated[str, AfterValidator(check_bind)]

# In the environment a list is its items with commas between; by default it would be JSON.
_List = (NoDecode, BeforeValidator(_comma_separated))


def _source(text: SecretStr | None, file: Path | None) -> PasswordSource | None:
    if file is not None:
        return PasswordFile(file)
    return None if text is None else Password(text.get_secret_value())


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is no absolute path, as /var/lib/deskrelay/homes is one")
    return path


class DesktopSettings(BaseModel):
    """How desktops that this server starts look, and the password of those that it does not."""

    model_config = ConfigDict(extra="forbid")

    geometry: Annotated[str, AfterValidator(check_geometry)] = "1280x800"
    """Width and height in pixels of a desktop's screen when it starts."""

    run_as: Annotated[str, AfterValidator(_run_as)] | None = None
    """As whom desktops that the server starts run: a user's name, or a range of uids, `FIRST-LAST`,
    of which each owner of workspaces gets one. For a server that runs as root."""

    homes_dir: Annotated[Path, AfterValidator(_absolute)] | None = None
    """Where the owners' homes on desktops are that are kept apart; by default below
    /var/lib/deskrelay, or in the server's own home."""

    password: SecretStr | None = None
    """What desktops at an address (tcp:// and unix:) or behind a workspace agent are told when they
    ask for a password."""

    password_file: Path | None = None
    """A file with that password in its first line, read at each login."""

    workspace_agent_secret: SecretStr | None = None
    """What workspace agents (ws:// and wss://) want to hear."""

    workspace_agent_secret_file: Path | None = None
    """A file with that secret in its first line, read at each dial."""

    workspace_agent_ca_file: Path | None = None
    """The authorities whose certificates workspace agents may show; the system's where it is not
    set."""

    workspace_agent_cert_file: Path | None = None
    """The certificate that is shown to workspace agents, and those between it and its authority."""

    workspace_agent_key_file: Path | None = None
    """The certificate's key."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if self.password is not None and self.password_file is not None:
            raise ValueError("password and password_file are both set; one is enough")
        if self.workspace_agent_secret is not None and self.workspace_agent_secret_file is not None:
            raise ValueError(
                "workspace_agent_secret and workspace_agent_secret_file are both set; one is enough"
            )
        if (self.workspace_agent_cert_file is None) is not (self.workspace_agent_key_file is None):
            raise ValueError("workspace_agent_cert_file and workspace_agent_key_file go together")
        return self

    def separation(self, several: Several) -> Separation:
        """How desktops are kept apart, where `several` tells whether there is more than one user.
        Looks at the machine, which may take some seconds. Raises SettingsProblem."""
        run_as = None if self.run_as is None else parse_run_as(self.run_as)
        try:
            separation = separation_for(run_as, self.homes_dir, several)
        except ValueError as error:
            raise SettingsProblem(f"settings: desktop.run_as: {error}") from None
        if self.homes_dir is not None:
            try:
                separation.make_homes()
            except OSError as error:
                raise SettingsProblem(f"settings: desktop.homes_dir: {error}") from None
        return separation

    @property
    def password_source(self) -> PasswordSource | None:
        """Where the password comes from; None where there is none."""
        return _source(self.password, self.password_file)

    def workspace_agent_credentials(self) -> WorkspaceAgentCredentials:
        """For workspace agents. Raises SettingsProblem where the certificates cannot be used."""
        tls = None
        if self.workspace_agent_ca_file is not None or self.workspace_agent_cert_file is not None:
            try:
                tls = client_tls(
                    self.workspace_agent_ca_file,
                    self.workspace_agent_cert_file,
                    self.workspace_agent_key_file,
                )
            except ValueError as error:
                raise SettingsProblem(f"settings: desktop: {error}") from None
        return WorkspaceAgentCredentials(
            _source(self.workspace_agent_secret, self.workspace_agent_secret_file), tls
        )


class ModelSettings(BaseModel):
    """The language model that chats talk to, and how long its agents may work."""

    model_config = ConfigDict(extra="forbid")

    api_key: SecretStr | None = None
    """Without it, or a file with it, chats have no model."""

    api_key_file: Path | None = None
    """A file with that key in its first line, read at start."""

    base_url: Annotated[str, AfterValidator(_http_url)] | None = None
    """Of a server that speaks the Messages API; by default Anthropic's."""

    name: str = "claude-opus-5-5"
    """It must know the version of the computer tool."""

    computer: Annotated[str, AfterValidator(_computer_version)] = "computer_toolset_20260801"
    """The version of the computer tool that agents are given."""

    quiet_s: Annotated[float, Field(ge=0, le=60)] = 0.08
    """After an action a screenshot waits until nothing has changed for so long."""

    settle_limit_s: Annotated[float, Field(ge=0, le=60)] = 2.0
    """And so long at most."""

    max_tokens: Annotated[int, Field(ge=256, le=128_000)] = 8_192
    """Of one answer."""

    turns_limit: Annotated[int, Field(ge=1)] = 200
    """Answers of the model in one go, until it has nothing more to do."""

    tokens_limit: Annotated[int, Field(ge=1)] = 5_000_000
    """Tokens that these take at most, those read and those written together."""

    time_limit_s: Annotated[float, Field(gt=0)] = 3_600
    """How long they may take."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("api_key and api_key_file are both set; one is enough")
        return self

    def read_api_key(self) -> str | None:
        """The key; None where there is none. Raises SettingsProblem."""
        if self.api_key_file is None:
            return None if self.api_key is None else self.api_key.get_secret_value()
        try:
            lines = self.api_key_file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsProblem(f"model.api_key_file: {error}") from None
        if not lines or not lines[0].strip():
            raise SettingsProblem(f"model.api_key_file: {self.api_key_file} has no key in it")
        return lines[0].strip()


class Settings(BaseSettings):
    """See docs/http.md for the table of these with examples."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid"
    )

    bind: Annotated[list[Bind], *_List, Field(min_length=1)] = ["127.0.0.1:6080"]
    """Where to listen. Loopback by default: TLS is the reverse proxy's."""

    database_url: str = "sqlite:///deskrelay.db"
    """SQLAlchemy's form: `sqlite:///PATH` or `postgresql+psycopg://USER@HOST/NAME`."""

    public_url: Annotated[str, AfterValidator(_public_url)] | None = None
    """What people type, with the path that a proxy strips. Scheme, `Host`, `Origin`, cookies and
    links follow from it alone."""

    allowed_origins: Annotated[list[Origin], *_List] = []
    """Further origins whose pages may use this server with the session cookie."""

    trusted_proxy_hops: Annotated[int, Field(ge=0, le=16)] = 0
    """How many reverse proxies in front append to X-Forwarded-For; 0 trusts none of it."""

    token_lifetime_s: Annotated[int, Field(ge=60, le=10 * 366 * 86_400)] = 7 * 86_400
    """From a token's last use (to the hour) to its end."""

    token_max_age_s: Annotated[
        int,
        Field(ge=60, le=10 * 366 * 86_400, validate_default=True),
        AfterValidator(_max_age),
    ] = 30 * 86_400
    """From when a token was made to its end, however much it is used."""

    risky_encodings: Annotated[list[Annotated[int, AfterValidator(check_risky)]], *_List] = []
    """Encodings that the relay can frame and by default lets no viewer ask for."""

    limits: Annotated[Limits, BeforeValidator(_limits)] = Limits()
    """Fields of `relay.Limits`."""

    desktop: DesktopSettings = DesktopSettings()

    model: ModelSettings = ModelSettings()

    budgets: BudgetSettings = BudgetSettings()

    @cached_property
    def let_through(self) -> frozenset[int]:
        """The encodings that viewers may ask for."""
        return LET_THROUGH | frozenset(self.risky_encodings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Init arguments, then the environment, then the file `load_settings` names."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))


def load_settings(config: Path | None = None) -> Settings:
    """The settings of a server: file, then environment. Raises SettingsProblem.

    `config` must exist; without one, `./deskrelay.toml` is read if it is there.
    """
    path = config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    for name in os.environ:
        field = name.removeprefix(ENV_PREFIX).lower().partition("__")[0]
        if name.startswith(ENV_PREFIX) and field not in Settings.model_fields:
            raise SettingsProblem(f"{name} in the environment: there is no such setting")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        if path is not None and not path.is_file():
            raise SettingsProblem(f"{path}: there is no such file")
        return FromFile()
    except ValidationError as error:
        raise SettingsProblem(f"{path or 'settings'}: {_one_line(error)}") from None
    except (tomllib.TOMLDecodeError, SettingsError, UnicodeDecodeError, OSError) as error:
        raise SettingsProblem(f"{path or 'settings'}: {error}") from None


_WORDS: Final = {
    "extra_forbidden": "there is no such setting",
    "model_type": "it has to be a table",
    "path_type": "it has to be a path, in quotes",
}
"""For what pydantic would say in words of Python's, by the type of the error."""


def _one_line(error: ValidationError) -> str:
    problems = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        what = _WORDS.get(item["type"], item["msg"].removeprefix("Value error, "))
        problems.append(f"{where}: {what}")
    return "; ".join(problems)
