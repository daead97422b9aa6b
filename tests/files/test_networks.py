"""Archives of networks: what is read is what was written, or one sentence says why not."""

import json
import tracemalloc
import zipfile
from dataclasses import fields, replace
from io import BytesIO

import numpy as np
import pytest

import hwgate
from hwgate.errors import UncheckedWarning, UserError
from hwgate.files.archive import DIGEST, digest_of, read_archive, write_archive
from hwgate.quant.fidelity import Fidelity, LayerFidelity
from hwgate.quant.fields import FIELDS
from hwgate.quant.layer import IMAGE, QuantizedLayer
from hwgate.zoo import networks as zoo
from support import fakes

FLIPS = 400


def make():
    """Gates of each channel, and shared ones, a residual, and what was measured."""
    network = fakes.network()
    stem, first, second, last = network.layers
    rng = np.random.default_rng(0)
    second = replace(second, gate=np.arange(16) // 4, threshold=np.arange(4), limit=3,
                     score=rng.integers(-9, 9, (4, 8, 3, 3)).astype(np.int8)
                     * second.base[:4, :, None, None])
    stem = replace(stem, residual=IMAGE, mult_residual=np.full(8, 1 << 8), relu_first=True)
    measured = tuple(LayerFidelity(layer.name, 31.5, 30.25) for layer in network.layers)
    return replace(network, layers=(stem, first, second, last), image_mean=np.array([0.25]),
                   fidelity=Fidelity(32, 0.96875, measured))


def same(left, right):
    """Whether two networks are equal in every field, arrays in type and shape as well."""
    def equal(a, b):
        if isinstance(a, np.ndarray):
            return a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
        return type(a) is type(b) and a == b

    return (left.config == right.config and left.fidelity == right.fidelity
            and equal(left.image_mean, right.image_mean)
            and equal(left.image_std, right.image_std)
            and len(left.layers) == len(right.layers)
            and all(equal(getattr(a, f.name), getattr(b, f.name))
                    for a, b in zip(left.layers, right.layers, strict=True)
                    for f in fields(QuantizedLayer)))


@pytest.fixture
def path(tmp_path):
    hwgate.save(tmp_path / "net.npz", make())
    return tmp_path / "net.npz"


@pytest.fixture
def edit(path):
    """Change the arrays of an archive, ``meta`` among them as JSON, and its digest with them."""
    def write(change, digest=True):
        with np.load(path) as file:
            arrays = dict(file)
        meta = json.loads(arrays["meta"].tobytes())
        arrays = change(meta, arrays) or arrays
        if isinstance(arrays.get("meta"), np.ndarray) and arrays["meta"].dtype == np.uint8:
            arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        arrays.pop(DIGEST)
        np.savez_compressed(path, **arrays, **({DIGEST: digest_of(arrays)} if digest else {}))
        return path
    return write


def refused(path):
    """The sentence with which an archive is refused."""
    with pytest.raises(UserError) as error:
        hwgate.load(path)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 600
    return sentence


def test_networks_survive_a_file(path):
    assert same(hwgate.load(path), make()) and same(hwgate.load(str(path)), make())
    assert hwgate.load(path).layers[0].weight.flags.writeable


def test_every_field_of_a_layer_is_declared():
    assert set(FIELDS) == {field.name for field in fields(QuantizedLayer)}


def test_numbers_of_numpy_are_kept(tmp_path):
    network = make()
    stem, first, *others = network.layers
    stem = replace(stem, padding=np.int64(1), relu=np.bool_(True), in_scale=np.float32(0.5))
    first = replace(first, padding=(np.int64(1),) * 4, source=np.int64(0))
    hwgate.save(tmp_path / "net.npz", replace(network, layers=(stem, first, *others)))
    plain = (replace(stem, padding=1, relu=True, in_scale=0.5),
             replace(first, padding=(1, 1, 1, 1), source=0), *others)
    assert same(hwgate.load(tmp_path / "net.npz"), replace(network, layers=plain))


def test_a_flipped_bit_is_never_another_network(path):
    whole, network = path.read_bytes(), make()
    rng, sentences = np.random.default_rng(7), []
    for bit in rng.choice(8 * len(whole), FLIPS, replace=False).tolist():
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)
        try:
            loaded = hwgate.load(path)
        except UserError as error:
            sentences.append(str(error))
        else:  # a bit that says nothing, such as a time
            assert same(loaded, network), bit
    assert len(sentences) > FLIPS / 2
    assert not any("\n" in sentence for sentence in sentences)


def test_a_flipped_bit_of_the_content_is_found_without_the_checks_of_the_zip_file(path):
    with np.load(path) as file:
        arrays = dict(file)
    rng = np.random.default_rng(3)
    for name in arrays:
        raw = bytearray(arrays[name].tobytes())
        raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
        changed = np.frombuffer(bytes(raw), np.uint8).view(arrays[name].dtype)
        np.savez(path, **{**arrays, name: changed.reshape(arrays[name].shape)})
        assert "damaged" in refused(path) or "truth value" in refused(path)
    swapped = {**arrays, "1.weight": arrays["2.weight"], "2.weight": arrays["1.weight"]}
    np.savez(path, **swapped)
    assert refused(path) == (f"File {path} is damaged: it does not hold what was written; fetch "
                             "or make it anew")


def _layer(index, **values):
    return lambda meta, arrays: meta["layers"][index].update(values)


def _arrays(**values):
    return lambda meta, arrays: arrays.update({name.replace("_", ".", 1): value
                                               for name, value in values.items()})


def _without(name):
    return lambda meta, arrays: {key: value for key, value in arrays.items() if key != name}


def _one(array, value):
    """Change one value of an array."""
    def change(meta, arrays):
        arrays[array] = arrays[array].copy()
        arrays[array].flat[-1] = value
    return change


INT32 = "-2147483648..2147483647"
FIELD = "Layer 'conv1' must have a field "
PADDING = "an integer in 0..255 or a tuple of 4 integers in 0..255"
SOURCE = f"an integer in {INT32} or None or a tuple of integers in {INT32}"


@pytest.mark.parametrize("change, sentence", [
    (_one("1.shift", 48), FIELD + "'shift' that is int64 (8) in 1..47, not 48 at (7)"),
    (_one("1.shift", 0), FIELD + "'shift' that is int64 (8) in 1..47, not 0 at (7)"),
    (_one("1.mult", 1 << 15), FIELD + "'mult' that is int64 (8, 2) in -32768..32767, "
     "not 32768 at (7, 1)"),
    (_one("1.bias", 1 << 31), FIELD + f"'bias' that is int64 (8, 2) in {INT32}, "
     "not 2147483648 at (7, 1)"),
    (_one("1.threshold", -(1 << 40)), FIELD + f"'threshold' that is int64 (8) in {INT32} or None, "
     "not -1099511627776 at (7)"),
    (_without("1.weight"), FIELD + "'weight' that is int8 (outputs, inputs, K, K) in -128..127, "
     "not None"),
    (_without("1.bias"), FIELD + f"'bias' that is int64 (8, 2) in {INT32}, not None"),
    (_arrays(**{"1_bias": np.zeros((8, 2))}), FIELD + f"'bias' that is int64 (8, 2) in {INT32}, "
     "not float64 (8, 2)"),
    (_arrays(**{"1_bias": np.zeros((7, 2), np.int64)}),
     FIELD + f"'bias' that is int64 (8, 2) in {INT32}, not int64 (7, 2)"),
    (_arrays(**{"1_bias": np.zeros((8, 2), ">i8")}),
     FIELD + f"'bias' that is int64 (8, 2) in {INT32}, not >i8 (8, 2)"),
    (_arrays(**{"1_base": np.ones((8, 8), np.uint8)}),
     FIELD + "'base' that is bool (8, 8), not uint8 (8, 8)"),
    (_arrays(**{"1_weight": np.zeros((8, 8), np.int8)}),
     FIELD + "'weight' that is int8 (outputs, inputs, K, K) in -128..127, not int8 (8, 8)"),
    (_arrays(**{"1_weight": np.zeros((0, 8, 3, 3), np.int8)}),
     FIELD + "'weight' that is int8 (outputs, inputs, K, K) in -128..127, not int8 (0, 8, 3, 3)"),
    (_layer(1, in_scale=0), FIELD + "'in_scale' that is a number above 0 and below 1e+30, not 0"),
    (_layer(1, out_scale=float("nan")),
     FIELD + "'out_scale' that is a number above 0 and below 1e+30, not nan"),
    (_layer(1, out_scale=float("inf")),
     FIELD + "'out_scale' that is a number above 0 and below 1e+30, not inf"),
    (_layer(1, in_scale=True),
     FIELD + "'in_scale' that is a number above 0 and below 1e+30, not True"),
    (_layer(1, in_shape=[8, 10**9, 8]),
     FIELD + "'in_shape' that is a tuple of 3 integers in 1..65535, not 1000000000"),
    (_layer(1, in_shape=[8, 8]),
     FIELD + "'in_shape' that is a tuple of 3 integers in 1..65535, not 2 of them"),
    (_layer(1, in_shape=[8, 0, 8]),
     FIELD + "'in_shape' that is a tuple of 3 integers in 1..65535, not 0"),
    (_layer(1, in_shape=8), FIELD + "'in_shape' that is a tuple of 3 integers in 1..65535, not 8"),
    (_layer(1, in_shape=[8, 8, 9]), "Layer 'conv1' takes 8x8x9 inputs, but its source has 8x8x8 "
     "outputs"),
    (_layer(1, padding=1.0), FIELD + f"'padding' that is {PADDING}, not 1.0"),
    (_layer(1, padding=True), FIELD + f"'padding' that is {PADDING}, not True"),
    (_layer(1, padding=[1, 1]), FIELD + f"'padding' that is {PADDING}, not 2 of them"),
    (_layer(1, padding=[1, 1, 0.5, 1]), FIELD + f"'padding' that is {PADDING}, not 0.5"),
    (_layer(1, stride="2"), FIELD + "'stride' that is an integer in 0..255, not '2'"),
    (_layer(1, relu=1), FIELD + "'relu' that is true or false, not 1"),
    (_layer(1, pool=0), FIELD + "'pool' that is an integer in 1..255, not 0"),
    (_layer(1, limit=10**30), FIELD + f"'limit' that is an integer in {INT32}, "
     "not 1000000000000000000000000000000"),
    (_layer(1, source=1), "Layer 'conv1' is number 1 and takes its input from layer 1, which must "
     "be before it"),
    (_layer(1, source=3), "Layer 'conv1' is number 1 and takes its input from layer 3, which must "
     "be before it"),
    (_layer(1, source={}), FIELD + f"'source' that is {SOURCE}, not a dict"),
    (_layer(1, source=[]), FIELD + f"'source' that is {SOURCE}, not 0 of them"),
    (_layer(1, source=[0, True]), FIELD + f"'source' that is {SOURCE}, not True"),
    (_layer(1, source=[0, 0]), "Layer 'conv1' takes 8x8x8 inputs, but its source has 8x8x8 and "
     "8x8x8 outputs"),
    (_layer(1, fan_in=0), FIELD + "'fan_in' that is an integer in 1..2147483647 or None, not 0"),
    (_layer(1, residual=[0]),
     FIELD + f"'residual' that is an integer in {INT32} or None, not a tuple"),
    (_layer(1, name=""), "A layer must have a field 'name' that is a text of 1..255 characters, "
     "not ''"),
    (_layer(1, name=[1]), "A layer must have a field 'name' that is a text of 1..255 "
     "characters, not a tuple"),
    (_layer(1, name="stem"), "Layer 'stem' must have a name of its own, but layer 1 has it too"),
    (_layer(1, colour=3), "Layer 'conv1' (number 1) has an unknown field 'colour'; there are "
     "fan_in, in_scale, in_shape, limit, name, out_scale, padding, pool, reduce, relu, "
     "relu_first, residual, residual_offset, residual_stride, source, stride"),
    (lambda meta, arrays: meta["layers"][1].pop("in_shape") and None,
     "Layer 'conv1' (number 1) must have a field 'in_shape', but has none"),
    (lambda meta, arrays: meta["layers"].__setitem__(1, 5),
     "Layer 1 of a network must be a dict, not 5"),
    (lambda meta, arrays: meta["layers"].clear(),
     "Network file {path} has an unknown field '0.base'; there are image_mean, image_std"),
    (lambda meta, arrays: meta.update(layers="all"),
     "Entry 'layers' of network file {path} must be a list, not 'all'"),
    (lambda meta, arrays: meta.pop("config") and None,
     "Network file {path} must have a field 'config', but has none"),
    (lambda meta, arrays: meta.update(config=[1]),
     "Entry 'config' of network file {path} must be a dict, not a list"),
    (lambda meta, arrays: meta["config"].update(bus=None),
     "Part 'bus' of a configuration must be a dictionary, not None"),
    (lambda meta, arrays: meta["config"].update(lanes=3),
     "Lane count must be a power of two, not 3"),
    (lambda meta, arrays: meta["config"]["buffers"].update(map_bytes=0.0),
     "Bytes of on-chip map memory must be a power of two, not 0.0"),
    (lambda meta, arrays: meta.update(fidelity=3),
     "Entry 'fidelity' of network file {path} must be a dict, not 3"),
    (lambda meta, arrays: meta["fidelity"].update(layers=[[1, 2, 3]]),
     "Field 'fidelity' of a network must be what was measured: images, a share of answers, "
     "whether it is ignored, and two ratios a layer"),
    (lambda meta, arrays: meta.update(hwgate=3), "Network file {path} must have version 2, not 3"),
    (lambda meta, arrays: meta.update(hwgate=True),
     "Network file {path} must have version 2, not True"),
    (lambda meta, arrays: meta.update(hwgate=1),
     "Network file {path} is damaged: a file of version 1 must have no digest of "
     "its content"),
    (_arrays(extra=np.zeros(3)),
     "Network file {path} has an unknown field 'extra'; there are image_mean, image_std"),
    (_without("image_std"), "Network file {path} must have a field 'image_std', but has none"),
    (_one("image_std", 0), "Field 'image_std' of a network must be one finite number, or one of "
     "each of 1 channels, and not 0"),
    (_one("image_mean", np.nan), "Field 'image_mean' of a network must be one finite number, or "
     "one of each of 1 channels"),
    (_arrays(meta=np.zeros(3)), "File {path} is no quantized network of hwgate"),
    (_without("meta"), "File {path} is no quantized network of hwgate"),
    (_arrays(**{"1_bias": np.array(["a", "b"])}),
     "File {path} must hold numbers, not <U1 in array '1.bias'"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_no_network_can_be_is_named(edit, change, sentence):
    path = edit(change)
    assert refused(path) == sentence.format(path=path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "null", "[]", "1" * 5000])
def test_other_json_is_no_network(edit, text):
    path = edit(lambda meta, arrays: None)
    with np.load(path) as file:
        arrays = dict(file) | {"meta": np.frombuffer(text.encode(), np.uint8)}
    write_archive(path, {name: array for name, array in arrays.items() if name != DIGEST})
    assert refused(path) == f"File {path} is no quantized network of hwgate"


def test_archives_of_the_version_before_are_read_and_are_unchecked(edit):
    path = edit(lambda meta, arrays: meta.update(hwgate=1), digest=False)
    with pytest.warns(UncheckedWarning) as warned:
        loaded = hwgate.load(path)
    assert same(loaded, make())
    assert [str(found.message) for found in warned] == [
        f"Network file {path} has no digest of its content, which is not checked; hwgate.save "
        "writes one with a digest"]
    assert warned[0].filename == __file__
    hwgate.save(path, loaded)
    assert same(hwgate.load(path), make())


def test_old_archives_may_lack_what_has_a_default(edit):
    def old(meta, arrays):
        meta["hwgate"] = 1
        for layer in meta["layers"]:
            assert not layer.pop("residual_offset")

    path = edit(old, digest=False)
    with pytest.warns(UncheckedWarning):
        assert same(hwgate.load(path), make())


def test_a_digest_cannot_be_left_out(edit):
    path = edit(lambda meta, arrays: None, digest=False)
    assert refused(path) == (f"Network file {path} is damaged: a file of version 2 must have a "
                             "digest of its content")


def test_networks_of_the_zoo_are_checked():
    for name in zoo.names():
        with np.load(zoo.path(name) / "network.npz") as file:
            assert DIGEST in file.files


@pytest.fixture
def peak():
    """Bytes that a call takes at most."""
    def measure(function, *arguments):
        tracemalloc.start()
        try:
            function(*arguments)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    return measure


def header(shape, dtype="|i1", descr=None):
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": descr or dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def pickled():
    stream = BytesIO()
    np.save(stream, np.array([{"a": 1}], object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize("content, compression, sentence", [
    (header((1 << 28,)) + bytes(1 << 28), zipfile.ZIP_DEFLATED, "which is out of proportion"),
    (header((1 << 28,)) + bytes(1 << 20), zipfile.ZIP_BZIP2, "is damaged"),
    (header((1 << 40,)), zipfile.ZIP_DEFLATED, "is damaged"),
    (header((1 << 62, 1 << 62)), zipfile.ZIP_DEFLATED, "is damaged"),
    (header((-1,)) + bytes(64), zipfile.ZIP_DEFLATED, "is damaged"),
    (header((64,), "|b1") + bytes(range(64)), zipfile.ZIP_DEFLATED,
     "must hold 0 or 1 for a truth value, in array '0.weight'"),
    (pickled(), zipfile.ZIP_STORED, "must hold numbers, not object in array '0.weight'"),
    (b"", zipfile.ZIP_STORED, "is damaged"),
    (b"no array", zipfile.ZIP_STORED, "is damaged"),
], ids=["bomb", "bzip2", "large", "overflow", "negative", "truth", "pickle", "empty", "text"])
def test_hostile_files_take_no_memory(tmp_path, peak, content, compression, sentence):
    path = tmp_path / "hostile.npz"
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("0.weight.npy", content)
    del content
    assert sentence in refused(path)
    assert peak(refused, path) < 1 << 22


def test_a_size_that_is_not_there_takes_no_memory(tmp_path, peak):
    path = tmp_path / "hostile.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("0.weight.npy", header((1 << 20,)) + bytes(1 << 20))
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x01\x02") + 24  # the size in the directory
    raw[at:at + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(raw)
    assert "out of proportion" in refused(path) and peak(refused, path) < 1 << 22


def test_two_arrays_of_a_name_are_refused(path):
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("meta.npy", file.read("meta.npy"))
    assert "is damaged" in refused(path)


def test_what_compresses_well_can_be_read_again(tmp_path):
    zeros = np.zeros(1 << 27, np.int8)
    write_archive(tmp_path / "zeros.npz", {"zeros": zeros})
    assert (read_archive(tmp_path / "zeros.npz")["zeros"] == zeros).all()


def test_digests_tell_names_types_and_shapes_apart():
    one = np.arange(6, dtype=np.int64)
    kinds = [{"a": one}, {"b": one}, {"a": one.reshape(2, 3)}, {"a": one.view(np.uint64)},
             {"a": one, "b": one}, {"a": one[:3], "b": one[3:]}]
    assert len({digest_of(arrays).tobytes() for arrays in kinds}) == len(kinds)
    assert (digest_of({"a": one, "b": -one}) == digest_of({"b": -one, "a": one})).all()
