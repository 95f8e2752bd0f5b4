"""The training step of a run: a CPU calls it; a GPU warms it up, captures it once as a CUDA graph, and replays that."""

from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist

import engine

WARM_UPS = 3  # steps before a capture, in which libraries choose their kernels
DDP_WARM_UPS = 11  # for DistributedDataParallel, as PyTorch's notes on CUDA graphs require


class Step:
    """The training step of a run: () -> None. With `use_graph`, the first call captures it and later ones replay it.

    recipe: what engine.train_step() takes after the targets. A step that cannot be captured is called, and `say` gets one line
    that says why.
    """

    def __init__(self, state, model, batches, *recipe, use_graph=False, say=print):
        self.state, self.model, self.batches, self.recipe, self.say = state, model, batches, recipe, say
        self.graph, self.broken, self.generator = None, None, None
        self.to_capture = use_graph and state.device.type == "cuda"
        self.n_warm_ups = DDP_WARM_UPS if engine.is_parallel() else WARM_UPS
        if self.to_capture and not state.reads_rate_on_device:
            self.give_up(f"{type(state.optimizer).__name__} needs values on the host")

    def give_up(self, reason):
        self.to_capture = False
        self.say(f"the training step runs slower, without a CUDA graph: {reason}")

    def __call__(self):
        state = self.state
        if self.to_capture and self.graph is None:
            self.capture()
        # dropped paths differ from step to step and process to process, and a resumed run draws the same ones again
        seed = hash((self.batches.seed, state.step, state.rank)) % 2**63
        if self.graph:
            self.generator.manual_seed(seed)
            self.graph.replay()
        else:
            if not state.reads_rate_on_device:
                for group in state.optimizer.param_groups:
                    group["lr"] = state.rates[state.step]
            torch.manual_seed(seed)
            self.compute()
        state.step += 1

    def compute(self):
        """The whole step, from reading the counter on the device to advancing it."""
        imgs, targets = self.batches.batch(self.state.t % self.batches.steps_per_epoch)
        engine.train_step(self.state, self.model, imgs, targets, *self.recipe)

    def capture(self):
        """Warms up the step, so that libraries choose their kernels, captures it, and restores the state."""
        state = self.state
        is_new = not state.optimizer.state  # Adam creates its state in its first step
        tensors = state.tensors() + ([] if is_new else optimizer_tensors(state.optimizer))
        before = [value.cpu() for value in tensors]  # on the host, as a capture needs memory of its own
        self.generator = torch.Generator(state.device)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        problem = None
        with drawing_from(self.generator, state.device):
            for _ in range(self.n_warm_ups):
                self.compute()
            torch.cuda.synchronize()
            try:
                with torch.cuda.graph(graph, pool, torch.cuda.current_stream(), capture_error_mode="thread_local"):
                    self.compute()
            except RuntimeError as error:
                cause = error.__context__ or error  # the end of a broken capture raises an error of its own
                end_broken_capture(state.device, pool)
                self.broken = graph  # alive: the allocator may query it
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
                problem = (str(cause) or type(cause).__name__).splitlines()[0]
                del cause  # its traceback would keep the memory of the step
        if is_new:
            for value in optimizer_tensors(state.optimizer):
                value.zero_()
        with torch.no_grad():
            for value, old in zip(tensors, before, strict=True):
                value.copy_(old)
        if engine.is_parallel():  # NCCL requires that all processes replay, or none
            failed = torch.tensor(float(problem is not None), device=state.device)
            dist.all_reduce(failed, dist.ReduceOp.MAX)
            if failed and problem is None:
                problem = "another process could not"
        if problem:
            state.optimizer.zero_grad(set_to_none=True)
            self.give_up(problem)
        else:
            self.graph = graph

    def release(self):
        """Frees what a captured graph holds: its memory, and NCCL's communicator, which cannot end before that."""
        if self.graph:
            self.graph.reset()
        self.graph = None


def end_broken_capture(device, pool):
    """What torch 2.11 omits: its allocator believes that a broken capture still runs, and empty_cache() fails later."""
    with suppress(RuntimeError):  # raised by a version that ends it itself
        torch._C._cuda_endAllocateToPool(device.index, pool)
        torch._C._cuda_releasePool(device.index, pool)


def optimizer_tensors(optimizer):
    return [v for values in optimizer.state.values() for v in values.values() if isinstance(v, torch.Tensor)]


@contextmanager
def drawing_from(generator, device):
    """Makes `generator` the device's default: a graph captured here draws from it, and seeding it sets a replay's draws."""
    default = torch.cuda.default_generators[device.index]
    before = default.graphsafe_get_state()
    default.graphsafe_set_state(generator.graphsafe_get_state())
    try:
        yield
    finally:
        default.graphsafe_set_state(before)
