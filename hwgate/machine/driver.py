"""Host driver of the engine: one class for the simulator and the board.

All it needs is a :class:`Bus`, which reads and writes 32-bit registers: an AXI4-Lite master of a
bench, memory-mapped registers on a board, or a dictionary in a test.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from hwgate.errors import UserError
from hwgate.machine.config import AcceleratorConfig
from hwgate.machine.layouts import descriptor_layout
from hwgate.machine.regs import ENGINE_ID, ErrorCause, counter_names, engine_registers

__all__ = ["Bus", "Driver", "EngineError", "Status"]


class Bus(Protocol):
    """Access to the control port; offsets are bytes from the first register."""

    async def read(self, offset: int) -> int:
        """32-bit value of the register at ``offset``."""

    async def write(self, offset: int, value: int) -> None:
        """Write 32 bits to the register at ``offset``."""


class EngineError(UserError):
    """The engine is absent, another one, or stopped; ``cause`` is NONE unless it stopped."""

    def __init__(self, sentence: str, cause: ErrorCause = ErrorCause.NONE) -> None:
        super().__init__(sentence)
        self.cause = cause


@dataclass(frozen=True)
class Status:
    """What the engine is doing.

    Parameters
    ----------
    busy, done : bool
        A program is running; the last program ended.
    error : ErrorCause
        Why it ended, NONE if at its end.
    layers : int
        Layers finished since the start.
    """

    busy: bool
    done: bool
    error: ErrorCause
    layers: int


class Driver:
    """Runs programs on an engine.

    Parameters
    ----------
    bus : Bus
        Access to the engine's control port.
    config : AcceleratorConfig
        The configuration that programs were compiled for.
    """

    def __init__(self, bus: Bus, config: AcceleratorConfig) -> None:
        self.config = config
        self._bus = bus
        self._registers = engine_registers(config)

    async def read(self, register: str) -> dict[str, int]:
        """Fields of ``register``; KeyError lists the registers if there is no such one."""
        word = await self._bus.read(self._registers.offset(register))
        return self._registers[register].unpack(word)

    async def write(self, register: str, **values: int) -> None:
        """Write ``register``; fields that are not named become zero."""
        word = self._registers[register].pack(values)
        await self._bus.write(self._registers.offset(register), word)

    async def check(self) -> None:
        """Make sure that there is an engine of this configuration.

        Raises
        ------
        EngineError
            If there is none, or it has another configuration.
        """
        found = (await self.read("ID"))["value"]
        if found != ENGINE_ID:
            raise EngineError(f"There is no hwgate engine here: register ID must be "
                              f"{ENGINE_ID:#010x}, not {found:#010x}")
        digest = (await self.read("DIGEST"))["value"]
        if digest != self.config.digest:
            raise EngineError(f"The engine must have configuration digest "
                              f"{self.config.digest:08x}, not {digest:08x}")

    async def start(self, program_address: int, *, irq: bool = False) -> None:
        """Start the program whose first descriptor is at byte ``program_address`` of memory.

        Parameters
        ----------
        irq : bool
            Raise the interrupt when it is done.

        Raises
        ------
        EngineError
            If the address cannot be a program's, or the engine is busy.
        """
        align, end = descriptor_layout().align, 1 << self.config.bus.address_bits
        if program_address % align or not 0 <= program_address < end:
            raise EngineError(f"Program address must be a multiple of {align} below {end:#x}, "
                              f"not {program_address:#x}")
        if (await self.status()).busy:
            raise EngineError("The engine is busy; a program must end before the next one starts")
        await self.write("PROGRAM", address=program_address)
        await self.write("CONTROL", start=1, irq_enable=int(irq))

    async def status(self) -> Status:
        """Progress of the program.

        Raises
        ------
        EngineError
            If the engine reports an error that this version does not know.
        """
        fields = await self.read("STATUS")
        layers = (await self.read("LAYERS"))["value"]
        causes = {cause.value: cause for cause in ErrorCause}
        if fields["error"] not in causes:
            raise EngineError(f"The engine reports error {fields['error']}, but the known ones "
                              f"are 0..{max(causes)}")
        return Status(busy=bool(fields["busy"]), done=bool(fields["done"]),
                      error=causes[fields["error"]], layers=layers)

    async def counters(self) -> dict[str, int]:
        """Every counter since the start, in the order of :func:`counter_names`."""
        return {name: (await self.read(name.upper()))["value"]
                for name in counter_names(self.config)}

    async def wait(self, irq: Awaitable[object] | None = None, *,
                   polls: int = 1_000_000) -> Status:
        """Wait until the program is done; returns its last status.

        Parameters
        ----------
        irq : awaitable, optional
            Completes when the interrupt rises, see ``irq`` of :meth:`start`; without it, STATUS is
            polled, as fast as the bus allows.
        polls : int
            Most reads of STATUS.

        Raises
        ------
        EngineError
            If the program stopped with an error, or is not done after that many reads.
        """
        if irq is not None:
            await irq
        status = await self.status()
        for _ in range(polls - 1):
            if status.done:
                break
            status = await self.status()
        if not status.done:
            raise EngineError(f"The engine must be done after {polls} reads of STATUS, "
                              f"but has only finished {status.layers} layers")
        if status.error is not ErrorCause.NONE:
            raise EngineError(f"The engine stopped with error {status.error.name} after "
                              f"{status.layers} layers: {status.error.doc}", status.error)
        return status
