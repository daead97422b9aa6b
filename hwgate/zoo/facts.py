"""What is known of a network of the zoo without running it."""

from typing import Any

from hwgate.train.recipe import Recipe
from hwgate.zoo import networks as zoo

__all__ = ["SPLITS", "facts"]

#: Scores of the float and of the integer network, by the images that they are counted on.
SPLITS = {"validation": ("validation", "integers_validation"), "test": ("test", "integers")}


def facts(name: str) -> dict[str, Any]:
    """Recipe of a network, what its training counted, and the network without gates beside it.

    Returns
    -------
    dict
        Ready for JSON. ``against`` has the points that the accuracy differs by from that of
        ``baseline`` on each of :data:`SPLITS`: integers from integers, or float from float where
        one of both lacks integers.

    Raises
    ------
    UserError
        If there is no training of that name.
    """
    known, folder = zoo.results(name), zoo.path(name)
    recipe = Recipe.from_dict(known["recipe"]).to_dict()  # with the entries that are newer than it
    scores = known["scores"]
    gate, loss, hardware = recipe["gate"], recipe["loss"], recipe["hardware"]
    baseline = zoo.baseline(name)
    return {
        "name": name, "architecture": recipe["network"]["name"],
        "width": recipe["network"]["width"], "data": recipe["data"]["name"],
        "epochs": recipe["optimizer"]["epochs"], "total": zoo.epochs(name),
        "tuning": recipe["quantize"]["epochs"],
        "seed": recipe["seed"], "teacher": loss["teacher"], "start": loss["start"],
        "gates": {**{part: gate[part] for part in ("groups", "base_channels", "grouping",
                                                   "granularity", "slice", "tau")},
                  "target": loss["target"] if loss["penalty"] else None,
                  "budget": hardware["budget"], "share": hardware["share"]}
        if gate["groups"] else None,
        "runs": name in zoo.names(), "floats": (folder / "model.safetensors").is_file(),
        "scores": scores, "baseline": baseline,
        "baseline_total": zoo.epochs(baseline) if baseline else None,
        "against": _against(scores, zoo.results(baseline)["scores"]) if baseline else {}}


def _against(scores: dict[str, Any], others: dict[str, Any]) -> dict[str, float]:
    """Points of accuracy to other scores, on each split that both were counted on."""
    found = {}
    for split, (floats, integers) in SPLITS.items():
        kind = integers if integers in scores and integers in others else floats
        if kind in scores and kind in others:
            found[split] = 100 * (scores[kind]["accuracy"] - others[kind]["accuracy"])
    return found
