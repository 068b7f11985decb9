"""Several workers as one gateway: it starts them, keeps what they share, speaks for them.

It runs no pipeline. What it holds outlives a worker: listening sockets, samples of what
was lost, and the counters, in blocks of memory that each process gets for as long as it
lives. A worker that ends by itself is followed by another one; what it had under way is
settled in its block's accounting first, so that the sums hold and no counter falls.

A reload starts new workers beside the old ones; when all of them serve, the old ones drain.
Where one doesn't start, the new ones are ended, and nothing has changed.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic, time

import msgspec

from k8strace import __version__
from k8strace.background import ended, in_thread, keep_running
from k8strace.component import ComponentID, Overview
from k8strace.config import GatewayConfig, Loaded
from k8strace.errors import ConfigError
from k8strace.graph import Graph, reason
from k8strace.lines import Lines
from k8strace.listeners import Listeners
from k8strace.loop_lag import LoopLag
from k8strace.losses import Loss, Sample
from k8strace.metrics import WORKER_DIED, WORKER_RESTARTS, WORKERS, Metrics, settle
from k8strace.service import promises, report
from k8strace.signals import ENDED, Signals, ends_before
from k8strace.telemetry import MetricsServer, bind_process, set_up_logs
from k8strace.worker_process import SharedBlock, WorkerProcess

log = logging.getLogger("k8strace")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before a worker is started again
LIVED = 60.0  # seconds after which a worker that ends was not one that cannot start
START_TIMEOUT = 60.0  # seconds for the workers of a reload to serve
END_TIMEOUT = 2.0  # seconds for a worker to end that was told to end at once
DRAIN_MARGIN = 5.0  # seconds over the shutdown timeout, for what follows the drain


class Plan:
    """A configuration, checked, and what each part of the gateway makes of it."""

    def __init__(self, loaded: Loaded, metrics: Metrics) -> None:
        graph = Graph(loaded.config, Metrics())
        config = loaded.config
        self.overview = graph.overview(metrics)
        self.loaded = loaded
        self.workers = config.service.workers
        self.promises = promises(graph)
        self.storages = graph.storages()
        self.endpoints = {
            str(id_): receiver.endpoints() for id_, receiver in graph.receivers.items()
        }
        # What speaks for all is the supervisor's; the workers have the rest.
        ours = [id_ for id_, one in graph.extensions.items() if one.speaks_for_all]
        service = config.service
        self.front = _with(config, ours, pipelines={}, workers=1)
        theirs = [id_ for id_ in service.extensions if id_ not in ours]
        self.worker = _with(config, theirs)

    async def hold(self) -> None:
        """Lock the directories that the workers share. Raises ConfigError."""
        try:
            for storage in self.storages:
                await storage.hold()
        except OSError as error:
            self.release()
            where = f"extensions::{storage.context.label}"
            raise ConfigError([f"{where}: {reason(error)}"]) from error

    def release(self) -> None:
        """Undo `hold`; nothing to undo is fine."""
        for storage in self.storages:
            storage.release()


def _with(
    config: GatewayConfig, extensions: Iterable[ComponentID], **changes: object
) -> GatewayConfig:
    service = msgspec.structs.replace(
        config.service, extensions=tuple(extensions), **changes
    )
    return msgspec.structs.replace(config, service=service)


class Front:
    """What the supervisor serves: the metrics, and the extensions that speak for all."""

    def __init__(self, config: GatewayConfig, metrics: Metrics, overview: Overview) -> None:
        self.config = config
        self.overview = overview
        # Its own metrics: what it has of budgets and queues is not the workers'.
        self._graph = Graph(config, Metrics(), overview=overview)
        self._server = MetricsServer(metrics, config.service.telemetry)

    async def start(self) -> None:
        """Raises ConfigError that names what cannot be served."""
        try:
            await self._server.start()
        except OSError as error:
            raise ConfigError([f"service::telemetry::metrics: {error.strerror}"]) from error
        try:
            await self._graph.start()
        except BaseException:
            await self._server.stop()
            raise
        self._graph.ready(False)
        if self._server.address:
            log.info("metrics on http://%s/metrics", self._server.address)

    def ready(self, is_ready: bool) -> None:
        self._graph.ready(is_ready)

    def show(self, overview: Overview) -> None:
        self.overview = overview
        self._graph.show(overview)

    async def stop(self) -> None:
        await self._graph.stop(asyncio.get_running_loop().time())
        await self._server.stop()

    def serves_the_same(self, config: GatewayConfig) -> bool:
        mine = self.config
        wanted = [config.extensions[id_] for id_ in config.service.extensions]
        return (
            mine.service == config.service
            and [mine.extensions[id_] for id_ in mine.service.extensions] == wanted
        )


class Supervisor:
    """Runs what `configuration` reads, which is called again for each reload."""

    def __init__(
        self,
        configuration: Callable[[], Loaded],
        shutdown_timeout: float,
        signals: Signals,
        *,
        drop_orphans: bool = False,
    ) -> None:
        self.signals = signals
        self.metrics = Metrics()
        self._configuration = configuration
        self._shutdown_timeout = shutdown_timeout
        self._drops_orphans = drop_orphans
        self._listeners = Listeners()
        self._slots: dict[int, WorkerProcess] = {}  # the last one started in each
        self._processes: set[WorkerProcess] = set()  # all that run
        self._free: list[SharedBlock] = []  # whose processes have ended
        self._pauses: dict[int, float] = {}
        self._restarts: set[asyncio.Task[None]] = set()
        self._served: set[int] = set()
        self._changed = asyncio.Event()  # something about a process
        self._has_started = False
        self._is_ready = False
        self._lines = Lines(logging.LoggerAdapter(log, {}))

    async def run(self, loaded: Loaded) -> int:
        """Start, serve until SIGTERM or SIGINT, drain; returns the exit status.

        Raises ConfigError where the configuration cannot be started.
        """
        self.signals.follow()
        set_up_logs(loaded.config.service.telemetry.logs)
        for note in loaded.notes:
            log.warning("%s", note)
        bind_process(self.metrics)
        for state in ("starting", "ready", "draining"):
            self.metrics.gauge(WORKERS, partial(self._count, state), state)
        try:
            self._plan = Plan(loaded, self.metrics)
            await self._plan.hold()
            if self._drops_orphans:
                for storage in self._plan.storages:
                    storage.drop_orphans(self.metrics)
            await self._listeners.open(self._plan.endpoints, self._plan.workers)
            self._front = Front(self._plan.front, self.metrics, self._plan.overview)
            await self._front.start()
            lag = LoopLag(self.metrics)
            lag.start()
            try:
                await self._serve()
            finally:
                lag.stop()
                await self._drain()
                self._lines.flush()
                await self._front.stop()
                self._plan.release()
        finally:
            self._listeners.close()
        log.info("stopped")
        return ENDED if self.signals.end_asked.is_set() else 0

    async def _serve(self) -> None:
        signals = self.signals
        for slot in range(self._plan.workers):
            try:
                self._slots[slot] = self._launch(slot, self._plan)
            except OSError as error:
                text = f"service::workers: cannot start a process: {error.strerror}"
                raise ConfigError([text]) from error
        while not (self._has_started or signals.stop_asked.is_set()):
            self._changed.clear()
            await ends_before(
                asyncio.ensure_future(self._changed.wait()), signals.stop_asked
            )
            if problems := _problems(self._slots.values()):
                raise ConfigError(self._plan.loaded.placed(problems))
            if self._all_ready():
                self._has_started = True
                self._announce()
        while not signals.stop_asked.is_set():
            await signals.asked.wait()
            signals.asked.clear()
            if signals.reload_asked and not signals.stop_asked.is_set():
                signals.reload_asked = False
                await self._reload()
        log.info("stopping: draining for at most %g s", self._shutdown_timeout)

    def _launch(self, slot: int, plan: Plan) -> WorkerProcess:
        if not self._free:
            self._free.append(SharedBlock.make())
            self.metrics.others.append(self._free[-1].block)
        process = WorkerProcess(
            slot,
            plan.worker,
            self._listeners.of(plan.endpoints, slot),
            self._free[-1],
            is_first=slot not in self._served,
            shutdown_timeout=self._shutdown_timeout,
            on_change=self._note_change,
            on_lost=self.metrics.losses.note,
        )
        self._free.pop()
        self._served.add(slot)
        self.metrics.counter(WORKER_RESTARTS, str(slot))  # it shows before the first one
        self._processes.add(process)
        process.ended.add_done_callback(partial(self._bury, process))
        return process

    def _bury(self, process: WorkerProcess, ended: asyncio.Future[int]) -> None:
        """Settle what a process that has ended left, and have another one follow it."""
        where = {"worker": process.slot}
        self._processes.discard(process)
        for (kind, component, pipeline), spans in settle(process.counters.block).items():
            self._tell_lost(process, kind, component, pipeline, spans)
        self._free.append(process.counters)
        self._note_change()
        if self._slots.get(process.slot) is not process:
            return  # it was told to end
        for problem in process.problems:
            log.error("cannot start: %s", problem, extra=where)
        if process.problems and not self._has_started:
            return
        restart = partial(self._restart, process, _ending(ended.result()))
        task = keep_running(restart, f"restarting worker {process.slot}", log)
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    def _tell_lost(
        self, process: WorkerProcess, kind: str, component: str, pipeline: str, spans: int
    ) -> None:
        text = f"they were in the memory of worker {process.slot}"
        loss = Loss(kind, component, "dropped", WORKER_DIED)
        self.metrics.losses.note(loss, Sample(time(), "", "", text))
        fields = {"component": f"{kind}/{component}", "pipeline": pipeline}
        self._lines.write(
            (kind, component, pipeline),
            logging.ERROR,
            "dropped spans: %s",
            text,
            number=spans,
            unit="spans",
            fields=fields | {"reason": WORKER_DIED, "worker": process.slot},
        )

    async def _restart(self, process: WorkerProcess, ending: str) -> None:
        slot = process.slot
        if monotonic() - process.started >= LIVED:
            self._pauses.pop(slot, None)
        while self._slots.get(slot) is process:
            pause = self._pauses.get(slot, FIRST_PAUSE)
            self._pauses[slot] = min(2 * pause, LONGEST_PAUSE)
            log.error("%s: starting again in %g s", ending, pause, extra={"worker": slot})
            await asyncio.sleep(pause)
            if self._slots.get(slot) is not process:
                return
            try:
                self._slots[slot] = self._launch(slot, self._plan)
            except OSError as error:
                ending = f"cannot start a process: {error.strerror}"
            else:
                self.metrics.counter(WORKER_RESTARTS, str(slot)).add(1)

    def _read(self) -> Plan:
        """What is made of the configuration as it is now. Raises ConfigError."""
        return Plan(self._configuration(), self.metrics)

    async def _reload(self) -> None:
        """Have workers of the configuration as it is now follow those that run."""
        plan, former = None, self._plan
        try:
            # Large ones take seconds, of which the loop must not be kept.
            plan = await self.signals.unless_stopped(in_thread(self._read))
            if plan is None:
                return
            await plan.hold()
            await self._listeners.open(plan.endpoints, plan.workers)
            log.info("reloading: %d workers start beside the running ones", plan.workers)
            new = await self._launch_all(plan)
            if new:
                await self._change_front(plan)
        except Exception as error:
            report(error, "the new configuration is wrong, or doesn't start")
            new = []
        if not new or plan is None:
            if plan is not None:
                plan.release()
            self._listeners.keep(former.endpoints, former.workers)
            for process in self._processes.difference(self._slots.values()):
                self._retire(process)
            log.error("reload refused; the running configuration goes on")
            return
        for process in self._slots.values():
            self._retire(process)
        former.release()
        self._plan, self._slots = plan, {one.slot: one for one in new}
        self._listeners.keep(plan.endpoints, plan.workers)
        set_up_logs(plan.loaded.config.service.telemetry.logs)
        for note in plan.loaded.notes:
            log.warning("%s", note)
        self._announce()
        self._note_change()

    async def _launch_all(self, plan: Plan) -> list[WorkerProcess]:
        """A worker for each slot, all of them serving; empty when a stop was asked.

        Raises ConfigError that says why one doesn't serve.
        """
        new = [self._launch(slot, plan) for slot in range(plan.workers)]
        up = asyncio.ensure_future(asyncio.wait([one.up for one in new]))
        if not await ends_before(up, self.signals.stop_asked, START_TIMEOUT):
            up.cancel()
            if self.signals.stop_asked.is_set():
                return []
            late = ", ".join(str(one.slot) for one in new if not one.up.done())
            raise ConfigError([f"workers do not serve after {START_TIMEOUT:g} s: {late}"])
        dead = [one for one in new if one.state == "ended"]
        if dead:
            problems = plan.loaded.placed(_problems(dead))
            raise ConfigError(problems or [f"a worker {_ending(dead[0].ended.result())}"])
        return new

    async def _change_front(self, plan: Plan) -> None:
        """Serve what `plan` says, or again what was served before. Raises ConfigError."""
        former = self._front
        if former.serves_the_same(plan.front):
            former.show(plan.overview)
            return
        await former.stop()
        self._front = Front(plan.front, self.metrics, plan.overview)
        try:
            await self._front.start()
        except ConfigError:
            self._front = Front(former.config, self.metrics, former.overview)
            await self._front.start()
            raise
        finally:
            self._is_ready = False
            self._note_change()

    def _retire(self, process: WorkerProcess) -> None:
        process.drain()
        longest = self._shutdown_timeout + DRAIN_MARGIN
        asyncio.get_running_loop().call_later(longest, process.kill)

    async def _drain(self) -> None:
        """End all processes: they drain, until a second signal or their time is over."""
        self._slots.clear()
        self._note_change()
        for restart in self._restarts:
            restart.cancel()
        for process in self._processes:
            process.drain()
        gone = asyncio.ensure_future(self._all_gone())
        end_asked, longest = self.signals.end_asked, self._shutdown_timeout + DRAIN_MARGIN
        if not await ends_before(gone, end_asked, longest):
            if end_asked.is_set():
                log.error("a second signal: stopping without draining")
            for process in self._processes:
                process.end()
            await ended(gone, END_TIMEOUT)
            for process in self._processes:
                process.kill()
            await gone

    async def _all_gone(self) -> None:
        while self._processes:
            self._changed.clear()
            await self._changed.wait()

    def _all_ready(self) -> bool:
        return bool(self._slots) and all(
            one.state == "ready" for one in self._slots.values()
        )

    def _note_change(self) -> None:
        self._changed.set()
        is_ready = self._all_ready()
        if is_ready != self._is_ready:
            self._is_ready = is_ready
            self._front.ready(is_ready)

    def _announce(self) -> None:
        for line in self._plan.promises.splitlines():
            log.info("%s", line)
        log.info("k8strace %s is ready with %d workers", __version__, self._plan.workers)

    def _count(self, state: str) -> int:
        return sum(one.state == state for one in self._processes)


def _problems(processes: Iterable[WorkerProcess]) -> list[str]:
    """Why processes could not start, each reason once."""
    found = (problem for one in processes for problem in one.problems)
    return list(dict.fromkeys(found))


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"
