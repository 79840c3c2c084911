"""The real device, without one: what it says when PyTorch or the GPU is absent, and that every kernel is made,
launched, captured and timed, against a stand-in for torch that only keeps shapes and a clock."""

import contextlib
import math
import sys
import types

import pytest
from click.testing import CliRunner

from cli import main
from profiles.board import Board
from profiles.errors import InputError
from profiles.own_rows import OPERATIONS
from profiles.profiler import Unmeasurable, sites_of
from profiles.torch_device import MAKERS, SAMPLES, TorchBench


class Tensor:
    """Keeps its shape through what the kernels do with it; every product takes a microsecond of the clock."""

    def __init__(self, *shape):
        self.shape = shape

    def t(self):
        return Tensor(*self.shape[::-1])

    def transpose(self, a, b):
        shape = list(self.shape)
        shape[a], shape[b] = shape[b], shape[a]
        return Tensor(*shape)

    def to(self, *_):
        return self

    cos = sin = __neg__ = mul_ = to

    def narrow(self, dim, start, length):
        assert start >= 0 and start + length <= self.shape[dim]
        return Tensor(*self.shape[:dim], length, *self.shape[dim + 1 :])

    def copy_(self, other):
        assert self.shape == other.shape
        return self

    def reshape(self, *shape):
        known = math.prod(n for n in shape if n != -1)
        return Tensor(*(math.prod(self.shape) // known if n == -1 else n for n in shape))

    def split(self, widths, dim):
        assert dim == -1 and sum(widths) == self.shape[-1]
        return [Tensor(*self.shape[:-1], width) for width in widths]

    def squeeze(self, dim):
        assert self.shape[dim] == 1
        return Tensor(*self.shape[:dim], *self.shape[dim + 1 :])

    def argmax(self, dim):
        return Tensor(*self.shape[:dim])

    def chunk(self, n, dim):
        return [Tensor(*self.shape[:-1], self.shape[-1] // n)] * n

    def topk(self, k):
        return Tensor(self.shape[0], k), Tensor(self.shape[0], k)

    def flatten(self):
        return Tensor(self.shape[0] * self.shape[1])

    def argsort(self, stable):
        return self

    def bincount(self, minlength):
        return Tensor(minlength)

    def tolist(self):
        return [0, 2] * (self.shape[0] // 2)

    def softmax(self, _):
        return self

    def cumsum(self, _):
        return self

    def index_add_(self, dim, index, rows):
        assert rows.shape[1] == self.shape[1]
        return self

    def __getitem__(self, key):
        if isinstance(key, tuple):
            return Tensor(*self.shape, 1)
        if isinstance(key, slice):
            return Tensor(key.stop - key.start, *self.shape[1:])
        if isinstance(key, Tensor):
            return Tensor(key.shape[0], *self.shape[1:])
        return Tensor(*self.shape[1:])

    def __matmul__(self, other):
        assert self.shape[-1] == other.shape[0], (self.shape, other.shape)
        CLOCK.work(None)
        return Tensor(*self.shape[:-1], other.shape[-1])

    def __mul__(self, other):
        return self

    __add__ = __sub__ = __floordiv__ = __truediv__ = __rpow__ = __mul__


CLOCK = types.SimpleNamespace(s=0.0, work=None)


class OutOfMemory(RuntimeError):
    pass


def stand_in(*, gpus=1, captures=True):
    """A module torch as far as the kernels use it."""
    torch = types.ModuleType("torch")
    state = types.SimpleNamespace(work=[], capturing=False, broken=False, l2=2**20, attended=[])

    def work(result):
        CLOCK.s += 1e-6
        if state.capturing:
            state.work.append(1e-6)
        return result

    CLOCK.work = work

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.s = CLOCK.s

        def synchronize(self):
            pass

        def elapsed_time(self, later):
            return (later.s - self.s) * 1e3

    class Graph:
        def replay(self):
            CLOCK.s += sum(state.work)

    @contextlib.contextmanager
    def graph(_):
        if not captures:
            raise RuntimeError("operation not permitted when stream is capturing")
        state.work, state.capturing = [], True
        yield
        state.capturing = False

    def synchronize():
        if state.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def matmul(a, b, out):
        assert (a @ b).shape == out.shape
        return out

    def scaled_mm(a, b, scale_a, scale_b, out_dtype, use_fast_accum):
        return a @ b

    def grouped_mm(rows, weights, offs):
        assert rows.shape[1] == weights.shape[1] and offs.shape == weights.shape[:1]
        return work(Tensor(rows.shape[0], weights.shape[2]))

    def attend(q, k, v, is_causal, enable_gqa):
        assert k.shape == v.shape and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]
        assert enable_gqa == (q.shape[1] != k.shape[1]) and is_causal == (q.shape[2] > 1)
        state.attended.append((q.shape, k.shape))
        return work(q)

    def linear(x, weight):
        assert x.shape[-1] == weight.shape[-1]
        return work(Tensor(*x.shape[:-1], weight.shape[0]))

    def rms_norm(x, shape, weight):
        assert x.shape[-1:] == shape == weight.shape
        return x

    properties = types.SimpleNamespace(name="NVIDIA H100", L2_cache_size=state.l2, uuid="abc")
    torch.state = state
    torch.__version__ = "2.8"
    torch.version = types.SimpleNamespace(cuda="12.8", hip=None)
    torch.bfloat16 = torch.float32 = torch.int32 = torch.uint8 = torch.float8_e4m3fn = "format"
    for name in ("randn", "empty", "rand"):
        setattr(torch, name, lambda *size, **_: Tensor(*size))
    torch.ones = lambda size, **_: Tensor(size) if size else Tensor()
    torch.zeros = lambda *size, **_: Tensor(*size)
    torch.zeros_like = torch.empty_like = lambda tensor: Tensor(*tensor.shape)
    torch.arange = lambda *ends, **_: Tensor(len(range(*ends)))
    torch.randint = lambda low, high, size, **_: Tensor(*size)
    torch.cat = lambda parts, dim: Tensor(*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
    torch.full = lambda size, value, **_: Tensor(*size)
    torch.add = lambda x, y, out: work(out)
    torch.matmul, torch._scaled_mm, torch._grouped_mm = matmul, scaled_mm, grouped_mm
    torch.manual_seed = lambda seed: None
    torch.nn = types.SimpleNamespace(
        functional=types.SimpleNamespace(
            scaled_dot_product_attention=attend, silu=lambda x: x, linear=linear, rms_norm=rms_norm,
            embedding=lambda tokens, table: Tensor(*tokens.shape, table.shape[1]),
        )
    )  # fmt: skip
    torch.cuda = types.SimpleNamespace(
        OutOfMemoryError=OutOfMemory, Event=Event, CUDAGraph=Graph, graph=graph, synchronize=synchronize,
        is_available=lambda: gpus > 0, device_count=lambda: gpus, set_device=lambda i: None,
        get_device_properties=lambda i: properties, memory_reserved=lambda: 2**40, empty_cache=lambda: None,
    )  # fmt: skip
    attention = types.ModuleType("torch.nn.attention")
    attention.SDPBackend = types.SimpleNamespace(FLASH_ATTENTION=1, CUDNN_ATTENTION=2, EFFICIENT_ATTENTION=3)
    attention.sdpa_kernel = contextlib.nullcontext
    return torch, attention


@pytest.fixture
def torch(monkeypatch):
    torch, attention = stand_in()
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch.nn.attention", attention)
    for absent in ("flashinfer", "flash_attn", "vllm", "pynvml"):
        monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    monkeypatch.setattr("profiles.torch_device.WINDOW_S", 0.0)
    CLOCK.s = 0.0
    return torch


@pytest.mark.parametrize("gpus", [None, 0])
def test_without_pytorch_or_a_gpu_one_line_says_so(monkeypatch, gpus):
    monkeypatch.setitem(sys.modules, "torch", stand_in(gpus=0)[0] if gpus == 0 else None)
    with pytest.raises(
        InputError, match="PyTorch finds none" if gpus == 0 else "cannot be imported"
    ) as caught:
        TorchBench()
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_the_command_exits_2_and_makes_no_folder(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = CliRunner().invoke(main, ["profile", "-o", str(tmp_path / "new")])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and "PyTorch" in result.stderr
    assert result.stdout == "" and not (tmp_path / "new").exists()
    for words in (["--budget", "10x"], ["--ops", "gem"]):
        assert CliRunner().invoke(main, ["profile", "-o", "x", "--dry-run", *words]).exit_code == 2


@pytest.mark.parametrize("operation", list(MAKERS))
def test_every_site_is_measured_in_graphs(torch, operation):
    bench = TorchBench()
    columns = OPERATIONS[operation]
    for site, coarse in sites_of(operation, 1):
        point = tuple(keys[min(1, len(keys) - 1)] for keys in coarse)
        shape = dict(zip((*columns.site, *columns.axes), (*site, *point), strict=True))
        reading = bench.measure(operation, shape)
        assert len(reading.samples_s) >= SAMPLES
        assert reading.kernel.endswith("eager") == (shape.get("launch") == "eager")
        assert min(reading.samples_s) > 0.9e-6 and reading.power_w is None
        if operation in ("prefill", "decode", "stream"):
            assert reading.samples_s[0] == pytest.approx(1e-6)  # one launch each
    bench.close()


@pytest.mark.parametrize(("phase", "new"), [("decode", 1), ("prefill", 40)])
def test_an_iteration_attends_in_every_layer_over_all_that_it_reads(torch, phase, new):
    shape = {"model": "llama-3.1-8b", "launch": "graph", "phase": phase, "sequences": 3, "each": 40}
    (make,) = MAKERS["iteration"]
    make(torch, shape, 0).launch(0)
    assert torch.state.attended == [((3, 32, new, 128), (3, 8, 40, 128))] * 32


def test_a_graph_that_cannot_be_captured_is_not_measured_as_one(torch, monkeypatch):
    eager, _ = stand_in(captures=False)
    monkeypatch.setitem(sys.modules, "torch", eager)
    shape = {"model": "llama-3.1-8b", "launch": "eager", "phase": "decode", "sequences": 1, "each": 8}
    assert TorchBench().measure("iteration", shape).kernel == "torch decoder eager"
    with pytest.raises(Unmeasurable, match="cannot be captured in a CUDA graph"):
        TorchBench().measure("iteration", {**shape, "launch": "graph"})


def test_of_several_kernels_the_fastest_counts(torch):
    shape = {
        "hidden": 64,
        "inner": 32,
        "experts": 4,
        "top_k": 2,
        "weight": "bf16",
        "activation": "bf16",
        "tokens": 9,
    }
    grouped = TorchBench().measure("moe", shape)
    del torch._grouped_mm
    looped = TorchBench().measure("moe", shape)
    assert grouped.kernel == "torch._grouped_mm" and looped.kernel == "torch.matmul per expert"


def test_what_cannot_be_captured_is_launched(torch, monkeypatch):
    eager, _ = stand_in(captures=False)
    monkeypatch.setitem(sys.modules, "torch", eager)
    reading = TorchBench().measure("stream", {"bytes": 4096})
    assert reading.kernel == "torch.add eager" and reading.samples_s[0] == pytest.approx(1e-6)


def test_failures_say_why_and_a_dead_device_ends_the_run(torch):
    bench = TorchBench()
    with pytest.raises(
        Unmeasurable, match="matmul: multiplies bf16 only; scaled_matmul: multiplies fp8 only"
    ):
        bench.measure("gemm", {"weight": "int8", "activation": "int8", "n": 64, "k": 64, "m": 1})

    def full(*_, **__):
        raise OutOfMemory("CUDA out of memory")

    torch.add = full
    with pytest.raises(Unmeasurable, match=r"^out of memory$"):
        bench.measure("stream", {"bytes": 4096})

    def fault(*_, **__):
        torch.state.broken = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    torch.add = fault
    with pytest.raises(InputError, match="no longer answers after element_wise: CUDA error"):
        bench.measure("stream", {"bytes": 4096})


def test_facts_name_the_device_and_versions(torch):
    facts = TorchBench().facts()
    assert facts["device"] == "NVIDIA H100" and facts["torch"] == "2.8" and facts["driver"] == "unknown"
    assert facts["vllm"] == "absent"


def test_power_comes_from_nvml_and_is_missing_where_it_fails(monkeypatch):
    class NVMLError(Exception):
        pass

    class Field:
        nvmlReturn = 0
        value = types.SimpleNamespace(uiVal=351_500)

    nvml = types.ModuleType("pynvml")
    nvml.NVMLError, nvml.NVML_CLOCK_SM = NVMLError, 1
    nvml.nvmlInit = lambda: None
    nvml.nvmlSystemGetDriverVersion = lambda: b"570.1"
    nvml.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    nvml.nvmlDeviceGetClockInfo = lambda handle, kind: 1980
    nvml.nvmlDeviceGetFieldValues = lambda handle, fields: [Field]
    nvml.nvmlDeviceGetPowerUsage = lambda handle: 300_000
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    board = Board("abc")
    assert board.driver == "570.1" and board.uuid == "GPU-abc" and board.read() == (351.5, 1980.0)
    Field.nvmlReturn = 3  # a driver that does not know power now
    assert board.read() == (300.0, 1980.0)

    def fail(*_):
        raise NVMLError

    nvml.nvmlDeviceGetClockInfo = fail
    assert board.read() == (None, None)
    board.close()


def test_power_comes_from_nvidia_smi_where_nvml_is_absent(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\ncase \"$*\" in *driver_version*) echo 550.2;; *) echo '[N/A], 5'; echo '200.5, 1410'; esac\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    board = Board("")
    board._reader.join()  # the stand-in prints two lines and ends
    board.close()
    assert board.driver == "550.2" and board.read() == (200.5, 1410.0)
