"""The processes that train one run together: torchrun's, or one alone."""

import os
import sys
import threading
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from flags import refuse

BY_TORCHRUN = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# where accelerate looks for the number of processes
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
POLL_S = 1.0  # between asking each other whether one has decoded the images


class Processes:
    """The processes that train one run together, as this one sees them: rank of world_size, on a device."""

    def __init__(self, args):
        refuse_without_torchrun()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # names of files and classes need not be UTF-8
        # without cpu= every process of a machine without GPUs would take itself for the only one
        self.state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(seconds=args.timeout_s))
        self.rank, self.world_size = self.state.process_index, self.state.num_processes
        self.device = self.state.device
        if self.device.type == "cuda" and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > torch.cuda.device_count():
            refuse(f"--nproc_per_node is more than the {torch.cuda.device_count()} GPUs of this machine")
        if self.device.type == "cpu":
            self.device = torch.device("cpu")  # not cpu:0, to which tensors of "cpu" would be copied

    def say(self, line):
        if self.rank == 0:
            print(line, flush=True)

    def one_first(self, call):
        """Runs call() in one process of each node, then in the others, which find its downloads and decoding done.

        It runs in a thread, and all processes ask each other every POLL_S whether it is done. So it may take longer than
        --timeout-s, within which they must answer: that limit is for processes that died or hang.
        """
        ended = {}

        def run():
            try:
                ended["value"] = call()
            except (OSError, ValueError) as error:
                # refused only once the others know, or they would wait
                ended["problem"] = str(error) or type(error).__name__
            except BaseException as error:
                ended["failure"] = error

        for turn in (self.state.is_local_main_process, not self.state.is_local_main_process):
            thread = threading.Thread(target=run, daemon=True)
            if turn:
                thread.start()
                thread.join(POLL_S)
            while (status := self.largest(int(thread.is_alive()), int("problem" in ended)))[0]:
                if turn:
                    thread.join(POLL_S)
            if "failure" in ended:
                raise ended["failure"]
            if status[1]:  # the others would meet the same
                break
        problems = [problem for problem in gather_object([ended.get("problem")]) if problem]
        if problems:  # on whichever machine
            refuse(problems[0])
        return ended["value"]

    def first_decides(self, call):
        """What call() returns in the first process. Its OSError or ValueError is refused by all."""
        found = [None, None]
        if self.rank == 0:
            try:
                found[0] = call()
            except (OSError, ValueError) as error:
                found[1] = str(error) or type(error).__name__
        answer, problem = broadcast_object_list(found)
        if problem:
            refuse(problem)
        return answer

    def largest(self, *numbers):
        """The maximum of each number over the processes, which must all call this at the same step."""
        if self.world_size == 1:
            return numbers
        together = torch.tensor(numbers, device=self.device)
        dist.all_reduce(together, dist.ReduceOp.MAX)
        return together.tolist()


def refuse_without_torchrun():
    """Ends the program if the environment announces several processes but not how they find each other."""
    if all(name in os.environ for name in BY_TORCHRUN):
        return
    sizes = {name: os.environ[name] for name in SIZES if os.environ.get(name, "1") != "1"}
    lone = sizes or {name: os.environ[name] for name in BY_TORCHRUN[:1] if name in os.environ}
    if lone:
        name, value = next(iter(lone.items()))
        missing = next(name for name in BY_TORCHRUN if name not in os.environ)
        refuse(f"{name}={value} is set and {missing} is not: start several processes with torchrun "
               f"--nproc_per_node N train.py, or unset {name} for one process")  # fmt: skip
