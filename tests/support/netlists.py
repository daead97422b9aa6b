"""Small netlists of ECP5 cells, written by hand as Yosys writes them."""

import json

__all__ = ["SmallNetlist"]


class SmallNetlist:
    """Cells are added one by one; nets have names here and numbers in the JSON."""

    def __init__(self, *scopes):
        self._nets = {}
        self._cells = {f"design.{scope}": {
            "type": "$scopeinfo", "parameters": {}, "connections": {},
            "attributes": {"hdlname": f"design {scope.replace('.', ' ')}"}} for scope in scopes}

    def net(self, name):
        """Number of a net; constants stay as they are."""
        return name if name in ("0", "1") else self._nets.setdefault(name, len(self._nets) + 2)

    def add(self, name, kind, *, scope=None, parameters=None, **ports):
        """Add a cell; a port has one net, or several with a blank between them."""
        attributes = {} if scope is None else {"scopename": " ".join(["design", *scope.split(".")])}
        self._cells[f"design.{name}"] = {
            "type": kind, "parameters": parameters or {}, "attributes": attributes,
            "connections": {port: [self.net(net) for net in nets.split()]
                            for port, nets in ports.items()}}
        return self

    def register(self, name, take, give, **ports):
        """Add a flip-flop, which lies in the block that its name begins with."""
        return self.add(name, "TRELLIS_FF", scope=name.rpartition(".")[0], CLK="clk", DI=take,
                        Q=give, **ports)

    def lut(self, name, take, give):
        """Add a look-up table of up to four inputs."""
        return self.add(name, "LUT4", Z=give, **dict(zip("ABCD", take.split(), strict=False)))

    def text(self):
        """All as JSON."""
        return json.dumps({"modules": {
            "$cells": {"attributes": {}, "cells": {}},
            "shell": {"attributes": {"top": f"{1:032b}"}, "cells": self._cells}}})
