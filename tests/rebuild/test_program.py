"""Programs as data: what they do, what they refuse, and that the clean model is not accused."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from harness.explore.explorer import Bounds, Explorer
from harness.explore.replay import Player
from harness.explore.story import Teller
from harness.explore.world import World
from mmu.host.frames import MAPPING_RWX
from mmu.machine import layout as at
from mmu.machine.layout import SLOT_ABSENT
from mmu.memslots import STATE_MASK
from tests.rebuild.two_rules import TWO_RULES
from workloads.errors import UsageError
from workloads.plan import VMM
from workloads.scenarios.generated import Part, Program, read_program
from workloads.scenarios.program import GROUP, OPERATIONS

WORKER = Part("zap worker", (("serve",),))
BY_WORKER = {"zap_by": "worker"}
WROTE = (("vcpu 0", ("write", 0)),)
WRITES = Part("vcpu 0", (("write", 0),))

CLEAN = {
    "write, move": Program((WRITES, Part("host", (("move", 0),))), WROTE),
    "write, delete": Program((WRITES, Part(VMM, (("delete slot", 0),)), WORKER), WROTE, BY_WORKER),
    "switch": Program(
        (Part("vcpu 0", (("switch root", 1), ("write", 0))), WORKER), WROTE, BY_WORKER
    ),
    "nothing for the worker": Program((WRITES, WORKER), WROTE, BY_WORKER),
    "write, move slot": Program(
        (WRITES, Part(VMM, (("move slot", 0, 8),)), Part("host", (("move", 0),)), WORKER),
        WROTE,
        {**BY_WORKER, "levels": 4},
    ),
    "migration": Program(
        (WRITES, Part(VMM, (("harvest",),))), ((VMM, ("log", 0)), *WROTE), migrates=True
    ),
    "migration, cleared": Program(
        (WRITES, Part(VMM, (("harvest",),))),
        ((VMM, ("log", 0)), *WROTE, (VMM, ("harvest",))),
        {"dirty_log_mode": "manual", "slots": 2},
        migrates=True,
    ),
    "migration, all named": Program(
        (WRITES, Part(VMM, (("harvest",),))),
        (*WROTE, (VMM, ("log", 0))),
        {"dirty_log_mode": "initially-set", "backing_level": 2},
        migrates=True,
    ),
    "recover": Program(
        (WRITES, Part("host", (("recover nx",),))),
        (*WROTE, ("vcpu 0", ("execute", 0))),
        {"backing_level": 2},
    ),
    "age": Program((WRITES, Part("host 0", (("age", 0),)), Part("host 1", (("move", 0),))), WROTE),
    "huge": Program(
        (Part("vcpu 0", (("execute", 0),)), Part("host", (("split", 0),))),
        WROTE,
        {"backing_level": 2},
    ),
}


def finished(program: Program) -> np.ndarray:
    """The VM's words after one execution in which all come to their ends."""
    world = World(program.scenario())
    replay = Player(world).play(())
    assert replay.finding is None
    words = world.words.copy()
    world.close()
    return words


@pytest.mark.parametrize("name", CLEAN)
def test_the_clean_model_is_not_accused(name):
    explorer = Explorer(CLEAN[name].scenario(), "dpor", Bounds(executions=20_000))
    result = explorer.run()
    explorer.close()
    assert result.findings == []
    assert result.complete > 0
    assert result.deadlocked == 0


def words_of(program: Program, region: str) -> np.ndarray:
    world = World(program.scenario())
    span = world.vm.layout.regions[region]
    world.close()
    return finished(program)[span.start : span.end]


@pytest.mark.parametrize(
    ("operation", "mapped"), [("swap out", 0), ("write-protect", 5), ("move", MAPPING_RWX)]
)
def test_the_host_does_what_it_is_told(operation, mapped):
    idle = Part("vcpu 0", ())
    program = Program((idle, Part("host", ((operation, 3),))), (("vcpu 0", ("write", 3)),))
    mapping = words_of(program, "mapping")
    assert int(mapping[3]) & MAPPING_RWX == mapped
    assert int(mapping[2]) == 0


def test_memslots_come_and_go():
    options = {"slots": 3, "absent_slots": 1, "levels": 4, **BY_WORKER}

    def state_of(*operations):
        program = Program((Part("vcpu 0", ()), Part(VMM, operations), WORKER), (), options)
        return int(words_of(program, "slots")[2 * at.SLOT_WORDS + at.SLOT_PLACE])

    assert state_of() & STATE_MASK == SLOT_ABSENT
    assert state_of(("create slot", 2, 6)) >> 2 == 6
    assert state_of(("create slot", 2, 6), ("delete slot", 2)) & STATE_MASK == SLOT_ABSENT
    assert state_of(("create slot", 2, 6), ("move slot", 2, 14)) >> 2 == 14


def test_guests_access_what_they_are_told():
    operations = (("read", 0), ("write", 1), ("execute", 2), ("write", 5))
    world = World(Program((Part("vcpu 0", operations),)).scenario())
    Player(world).play(())
    own = world.own(0)
    numbers = [int(world.words[own + n]) for n in (at.N_READS, at.N_WRITES, at.N_EXECUTES)]
    world.close()
    assert numbers == [1, 2, 1]


def test_operations_are_numbered_by_who_does_them():
    roles = {}
    for each in OPERATIONS.values():
        assert roles.setdefault(each.code // GROUP, each.role) == each.role
    assert len({each.code for each in OPERATIONS.values()}) == len(OPERATIONS)
    assert len(roles) == 4


GOOD = CLEAN["write, delete"].document()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("vm", "zap_by"), "nobody", "a VM with zap_by 'nobody' is not possible"),
        (("vm", "pages"), 1 << 40, "a VM with pages"),
        (("vm", "slots"), True, "a VM with slots True"),
        (("actors",), [], "needs `vm` and `actors`"),
        (("actors",), {"host": []}, "actors are vcpu 0, vcpu 1"),
        (("actors", "vcpu 2"), [], "actors are vcpu 0, vcpu 1"),
        (("actors", "vcpu 0"), [["write", 8]], "no such gfn"),
        (("actors", "vcpu 0"), [["write", 0]] * 9, "at most 8 operations"),
        (("actors", "vcpu 0"), [["switch root", 4]], "no such space"),
        (("actors", "vcpu 0"), [["swap out", 0]], "vcpu 0 cannot do ['swap out', 0]"),
        (("actors", "vmm"), [["delete slot", 1]], "no such slot"),
        (("actors", "vmm"), [["delete slot"]], "vmm cannot do"),
        (("actors", "vmm"), ["delete slot"], "vmm cannot do"),
        (("before",), [["host", "move", 0]], "is not an actor and what it has done"),
        (("before",), [["zap worker", "serve"]], "serves only while others play"),
        (("probes",), ["sometimes"], "there is no probe 'sometimes'"),
    ],
)
def test_what_is_no_program_is_one_line(path, value, said):
    document = copy.deepcopy(GOOD)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(UsageError) as error:
        read_program(document, "r.json: program")
    assert str(error.value).startswith("r.json: program: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_only_one_oracle_is_listened_to():
    """A scenario that breaks two rules: each is found alone, compiled and told."""
    for oracle in ("roots", "balance"):
        explorer = Explorer(TWO_RULES, "dpor", Bounds(executions=100), oracles=(oracle,))
        (found,) = explorer.run().findings
        explorer.close()
        assert found.oracle == oracle
        world = World(TWO_RULES)
        script = [step for step in found.steps if step.kind >= 0]
        assert Teller(world, (oracle,)).tell(script, compare=True).oracle == oracle
        assert Player(world, oracles=(oracle,)).play(script).finding.oracle == oracle
        world.close()
    explorer = Explorer(TWO_RULES, "dpor", Bounds(executions=100), oracles=("mapping",))
    assert explorer.run().findings == []
    explorer.close()
