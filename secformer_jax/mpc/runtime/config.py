"""Protocol configurations: files in SPU's own JSON layout (nodes, devices, runtime_config, compiler_options)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from spu import libspu

from secformer_jax.errors import UserError
from secformer_jax.mpc.runtime import layout
from secformer_jax.mpc.runtime.layout import CONFIG_DIR as CONFIG_DIR
from secformer_jax.mpc.runtime.layout import EMULATION as EMULATION
from secformer_jax.mpc.runtime.layout import names as names

# Elements are int64 outside SPU, whatever their own ring is.
FIELDS = ("FM64",)
FRACTION_BITS = range(8, 27)


@dataclass(frozen=True)
class MpcConfig:
    """One protocol on a fixed set of computing parties.

    Attributes:
        name: what reports call it, the file's stem.
        addresses: one link address a party, by rank (used by clusters, not in simulation).
        runtime: SPU's runtime_config as a JSON object.
        compiler: SPU's compiler options, by their SPU names.
    """

    name: str
    addresses: tuple[str, ...]
    runtime: dict
    compiler: dict

    @property
    def world_size(self) -> int:
        """Number of computing parties."""
        return len(self.addresses)

    @property
    def protocol(self) -> str:
        """SPU's name of the protocol."""
        return self.runtime["protocol"]

    @property
    def fraction_bits(self) -> int:
        """Bits after the binary point of a fixed-point number."""
        return self.runtime["fxp_fraction_bits"]

    @property
    def has_third_party(self) -> bool:
        """Whether SPU asks a dealer that is a process of its own."""
        return self.runtime.get("beaver_type") == "TrustedThirdParty"

    def runtime_config(self, *, profile: bool = False) -> libspu.RuntimeConfig:
        """SPU's runtime configuration; with `profile` it logs its costs by operation."""
        config = libspu.RuntimeConfig()
        if not config.ParseFromJsonString(json.dumps({**self.runtime, "enable_pphlo_profile": profile})):
            refused = [
                f"{key} {value!r}"
                for key, value in self.runtime.items()
                if not libspu.RuntimeConfig().ParseFromJsonString(json.dumps({key: value}))
            ]
            raise UserError(f"config {self.name}: SPU does not accept {', '.join(refused)} in its runtime_config")
        return config

    def compiler_options(self) -> libspu.CompilerOptions:
        """SPU's compiler options."""
        options = libspu.CompilerOptions()
        for key, value in self.compiler.items():
            setattr(options, key, value)
        return options


def load(path_or_name: str | Path) -> MpcConfig:
    """Read a configuration by file path, or by the name of one in spu_configs/.

    Raises:
        UserError: no such file, not SPU's layout, or a protocol, field or party count that SPU would refuse.
    """
    found = layout.read(path_or_name)
    return _checked(MpcConfig(found.path.stem, found.links, found.runtime, found.compiler))


def _checked(config: MpcConfig) -> MpcConfig:
    layout.check_parties(config.name, config.runtime.get("protocol"), config.world_size)
    field = config.runtime.setdefault("field", "FM64")
    if field not in FIELDS:
        raise UserError(f"config {config.name}: field {field!r} is not supported, expected {', '.join(FIELDS)}")
    fraction_bits = config.runtime.setdefault("fxp_fraction_bits", 18)
    if type(fraction_bits) is not int or fraction_bits not in FRACTION_BITS:
        raise UserError(
            f"config {config.name}: fxp_fraction_bits {fraction_bits!r} does not fit {field}, "
            f"expected {FRACTION_BITS[0]} to {FRACTION_BITS[-1]}"
        )
    known = {option for option in dir(libspu.CompilerOptions) if not option.startswith("_")}
    unknown = sorted(set(config.compiler) - known)
    if unknown:
        raise UserError(f"config {config.name}: unknown compiler option {unknown[0]!r}; SPU's names are expected")
    try:
        config.compiler_options()
    except TypeError:
        raise UserError(f"config {config.name}: SPU does not accept its compiler_options: see spu_configs/") from None
    config.runtime_config()
    return config
