"""Which mutations prove which oracle: the one table of them.

Each oracle has mutations (diffs of at most ten changed lines) that it must report under its own
name: at least three in explored runs, at least one in stress.  `tests.oracles.check` runs all of
them, and the clean model under the same scenarios and commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUGS = ROOT / "tests" / "explore" / "bugs"
MUTATIONS = ROOT / "tests" / "oracles" / "mutations"
CATALOGUE = ROOT / "workloads" / "bugs"

Words = tuple[str, ...]

SMALL: Words = ("dirty-log", "-g", "-b", "8M", "-s", "2m", "-w", "50", "-i", "1")
SMALL_ZAP: Words = (*SMALL, "--huge-split", "zap")
SMALL_FAULT: Words = (*SMALL, "--huge-split", "fault")
PAGES_4K: Words = ("dirty-log", "-g", "-b", "8M", "-w", "50", "-i", "1")
# Every vCPU touches all memory, in the same order: they race for every table and every page.
CROWDED: Words = ("dirty-log", "-g", "-o", "-v", "2", "-b", "32M", "-i", "1")
# Torture as a seed might choose it, without what makes the rest of it seldom.
_KINDS = "execute,mmio,slots,reclaim,ksm,ad,pml"
_POLICIES: Words = (
    *("--root-life", "put", "--zap-by", "worker", "--huge-split", "eager", "--flush", "range"),
    *("--dirty-log-mode", "get", "-s", "4k", "-b", "4M", "--seconds", "3"),
)
STILL: Words = ("torture", "-v", "3", "--without", "all", "--with", _KINDS, *_POLICIES)
ROOTS: Words = ("torture", "-v", "3", "--without", "all", "--with", f"{_KINDS},roots", *_POLICIES)
TORTURE: Words = (*ROOTS, "--zap-steps", "1g")
# Roots are dropped and loaded all the time.
SWITCHING: Words = (*TORTURE, "--root-switches", "4")
# Logging takes W from little memory, which the TLBs can hold.
PROTECTED: Words = ("dirty-log", "-g", "-b", "64k", "-w", "100", "-i", "2", "--no-pml")
# Huge pages are written, then split by executions; nobody logs.
EXECUTED: Words = ("execute", "-v", "2", "-b", "16M", "-s", "2m")
# A memslot that nobody uses comes and goes: all that vCPUs have written is zapped.
MODIFIED: Words = ("memslot-modification", "-v", "2", "-b", "8M", "-i", "20")
# Little memory that is migrated again and again, and swapped out as soon as it has been touched, by
# actors that stumble at every hundredth step: between a read and the write that must be one step.
SAVED: Words = (
    *("torture", "-v", "4", "--without", "all", "--with", "migration,reclaim,ad,pml"),
    *("--root-life", "put", "--zap-by", "caller", "--zap-steps", "1g", "--huge-split", "eager"),
    *("--flush", "range", "--dirty-log-mode", "get", "-s", "4k", "-b", "256k", "--seconds", "30"),
    *("--inject", "delay=0.01:20000", "--no-floors"),
)
# One invalidation, and all is at rest before anybody can believe that there was none.
MPROTECTED: Words = ("mmu-stress", "-c", "1", "-m", "1", "-s", "1")
STEPS_4K: Words = (*STILL, "--zap-steps", "4k-2m-1g")


@dataclass(frozen=True)
class Proof:
    """A mutation, the scenario in which exploring it is found, and how stress finds it."""

    mutation: str
    scenario: str = ""
    stress: Words = ()
    keep_going: bool = False  # another oracle is faster there


PROOFS: dict[str, tuple[Proof, ...]] = {
    "mapping": (
        Proof("b18-slot-being-deleted-taken-for-hole", "slot-delete-fault", TORTURE),
        Proof("range-of-the-first-memslot-only", "discard-two-slots"),
        Proof("mapping-wrong-frame", "map-map-same", PAGES_4K),
        Proof("mapping-notifier-without-flush", stress=TORTURE),
        Proof("mapping-stale-check-skipped", "notifier-fault"),
        Proof("mapping-protected-page-written", "protect-write"),
        Proof("generation-before-the-srcu-wait", "mmio-create"),
        Proof("generation-marked-after-the-change", "mmio-create"),
        Proof("generation-stays", "mmio-create"),
        Proof("generation-wraps-over-old-entries", "mmio-wrap"),
        Proof("mmio-entry-read-before-the-generation", "mmio-wrap"),
        Proof("stale-mmio-entry-believed", "mmio-create"),
        Proof("tracking-takes-only-w", "track-write"),
        Proof("tracking-looks-at-w-only", "track-harvest"),
        Proof("tracking-flushes-after-unlock", "track-track"),
        Proof("fast-fault-ignores-mmu-writable", "track-fast-fault"),
        Proof("leaf-ignores-tracking", "track-fault"),
        Proof("huge-page-over-tracked-gfn", "track-map-huge"),
        Proof("b32-level-read-outside-the-lock", "huge-split-fault"),
        Proof("recovery-level-read-outside-the-lock", "recover-move"),
        Proof("b52-block-begins-before-the-slot", "recover-border"),
        Proof("b41-other-address-space-passed-over", "slot-delete-two-roots"),
    ),
    "memory": (
        Proof("memory-zeroed-again", stress=SMALL_ZAP),
        Proof("memory-moved-before-unmapping", "notifier-write"),
        Proof("memory-swapped-in-empty", "swap-in-swap-out", TORTURE),
        Proof("memory-zap-tells-no-host", "swap-in-swap-out", TORTURE),
        Proof("b45-write-known-by-w-alone", "restore-swap", keep_going=True),
    ),
    "tlb": (
        Proof("no-flush-in-notifier", "notifier-write"),
        Proof("no-reload-request", "slot-delete-fault"),
        Proof("tlb-flush-before-the-zap", "notifier-write"),
        Proof("tlb-root-loaded-without-flush", "switch-fault"),
        Proof("no-flush-after-harvest", stress=PROTECTED),
        Proof("tlb-flush-keeps-structures", "promote-walker"),
        Proof("tlb-table-replaced-without-flush", "promote-walker"),
        Proof("restore-gives-w-to-anybody", "restore-read-only"),
        Proof("b03-yield-with-another-roots-flush-owed", "two-roots-notifiers"),
        Proof("b04-recovery-ignores-flush", "nx-recovery-walker"),
        Proof("b05-recovery-yields-with-pending-flush", "nx-recovery-yield"),
        Proof("b29-flush-lost-with-the-next-root", "two-roots-move"),
        Proof("recovery-flushes-after-rcu", "nx-recovery-walker"),
        Proof("recover-without-flush", "recover-walker"),
    ),
    "dirty": (
        Proof("split-children-without-dirty", "split-split", EXECUTED),
        Proof("bitmap-taken-after-protecting", "fast-fault-harvest"),
        Proof("fast-fault-on-huge-logged-leaf", "huge-logged-write"),
        Proof("no-flush-after-harvest", "walker-harvest-dirty"),
        Proof("no-srcu-wait-when-logging-starts", "enable-fault"),
        Proof("fast-fault-marks-nothing", "fast-fault-harvest"),
        Proof("clear-without-mark", "map-harvest"),
        Proof("enable-protects-before-the-flag", "enable-fault"),
        Proof("fast-fault-marks-before-cmpxchg", "fast-fault-harvest"),
        Proof("flush-without-waiting", "walker-harvest-dirty"),
        Proof("log-bit-by-plain-write", "write-write-bitmap"),
        Proof("protect-gives-up-after-lost-race", "age-enable"),
        Proof("root-link-overwritten-at-its-free", "enable-put-before"),
        Proof("dirty-lost-by-move", "notifier-write"),
        Proof("memory-zap-tells-no-host", stress=MODIFIED),
        Proof("plain-write-long-after-the-read", stress=SAVED),
        Proof("b43-harvest-goes-by-a-global-flag", "no-ad-beside-pml"),
        Proof("no-flush-where-ageing-took-w", "restore-cached-harvest", keep_going=True),
        Proof("restore-marks-nothing", "restore-harvest"),
        Proof("emulated-write-not-logged", "track-walker"),
        Proof("enable-takes-d-before-w", "enable-execute"),
        Proof("clear-by-plain-write", "clear-fetched"),
        Proof("clear-protects-before-taking-the-bits", "clear-fetched"),
        Proof("clear-protects-the-first-block-only", "clear-straddling"),
        Proof("clear-takes-the-whole-word", "clear-fetched"),
        Proof("clear-without-flush", "clear-walker"),
        Proof("exclusive-split-forgets-d", "clear-split-walker"),
        Proof("get-takes-what-clear-should", "clear-walker"),
        Proof("initially-set-begins-empty", "initially-set-write"),
        Proof("initially-set-protects-nothing-at-clear", "clear-straddling"),
        Proof("recover-before-logging-is-off", "recover-fast-fault"),
        Proof("recover-tells-no-dirtiness", "recover-written"),
    ),
    "frames": (
        Proof("b09-slot-gone-before-its-mappings", "slot-delete-move"),
        Proof("b19-notifier-skips-invalid-roots", "worker-notifier"),
        Proof("frames-freed-before-the-notifier", "protect-swap-out", keep_going=True),
        Proof("frames-moved-before-the-notifier", "notifier-write", TORTURE),
        Proof("frames-one-taken-twice", stress=TORTURE),
        Proof("emulated-write-without-mmap-lock", "tracked-write-swap"),
    ),
    "lifetime": (
        Proof("b07-table-freed-without-grace-period", "promote-execute"),
        Proof("lifetime-fault-outside-rcu", "map-map-same"),
        Proof("lifetime-fast-fault-outside-rcu", "fast-fault-harvest"),
        Proof("lifetime-grace-period-before-removal", "promote-execute"),
        Proof("lifetime-wild-frame", "map-map-same", PAGES_4K),
        Proof("ageing-outside-rcu", "age-promote"),
        Proof("roots-read-outside-rcu", "put-split-worker"),
    ),
    "frozen": (
        Proof("b37-leaf-mapped-over-frozen-entry", "promote-execute"),
        Proof("b30-frozen-entry-left-to-the-setter", "drop-prefault"),
        Proof("frozen-changed-by-the-ordinary-setter", "drop-read", SMALL_ZAP),
        Proof("frozen-left-by-a-zap", "notifier-fault", TORTURE),
        Proof("frozen-root-entries", "invalidate-fault"),
        Proof("ageing-by-atomic-and", "age-promote"),
        Proof("recovery-zaps-what-stands-there", "nx-recovery-invalidate"),
    ),
    "transitions": (
        Proof("lost-dirty-by-plain-write", "map-map-same"),
        Proof("harvest-clears-by-plain-write", "fast-fault-harvest-pml"),
        Proof("transitions-ladder", "map-map-same", SMALL),
        Proof("transitions-empty-entry-zapped", "invalidate-fault", TORTURE),
        Proof("transitions-fault-takes-execution", stress=TORTURE),
        Proof("transitions-split-child-too-large", "split-split", SMALL_FAULT),
        Proof("mmio-entry-over-a-leaf", "mmio-create-faults"),
        Proof("ageing-by-plain-write", "age-zap"),
        Proof("b31-plain-write-over-volatile", "zap-walker"),
        Proof("ageing-unknown-to-the-volatile-rule", "restore-zap-read-only"),
        Proof("split-loses-what-is-put-aside", "restore-eager-split"),
        Proof("recover-takes-a-leaf-for-the-block", "recover-map"),
    ),
    "leaks": (
        Proof("b12-zap-misses-what-reaches-beyond", "invalidate-partial"),
        Proof("b17-iterator-skips-after-yield", "invalidate-top"),
        Proof("table-linked-before-initialised", "split-split-faults"),
        Proof("list-add-without-lock", "execute-execute"),
        Proof("statistic-by-plain-write", "map-map-neighbour"),
        Proof("table-lost-with-its-race", "map-map-same"),
        Proof("leaks-statistics", "split-split", SMALL_FAULT),
        Proof("leaks-lost-page", "map-map-same", PAGES_4K),
        Proof("leaks-root-not-freed", "put-get", TORTURE),
        Proof("nx-list-popped-without-lock", "nx-recovery-twice"),
    ),
    "roots": (
        Proof("b01-last-put-of-a-walk-ignored", "put-zap"),
        Proof("b08-reader-revives-dying-root", "put-get-worker"),
        Proof("b16-fault-populates-defunct-root", "invalidate-fault"),
        Proof("b24-reader-works-on-invalid-root", "enable-put"),
        Proof("b27-reference-given-back-twice", "worker-fault", TORTURE),
        Proof("b40-root-dropped-with-every-unload", "put-get-owned"),
        Proof("roots-not-looked-up-again", "map-topup"),
        Proof("roots-reference-put-twice", "put-get", TORTURE),
        Proof("roots-reference-by-plain-write", "put-get"),
        Proof("roots-given-back-without-atomic", "put-put"),
        Proof("roots-reference-kept-by-a-walk", "invalidate-notifier"),
        Proof("roots-dying-root-scheduled-again", stress=SWITCHING),
    ),
    "locks": (
        Proof("lock-dropped-too-early", "map-map-same", TORTURE),
        Proof("srcu-wait-under-mmu-lock", "enable-fault"),
        Proof("locks-not-taken", "map-map-same", SMALL),
        Proof("locks-not-released", "walker-harvest", SMALL),
        Proof("locks-freed-under-mmu-lock", "put-get"),
        Proof("locks-memory-taken-under-mmu-lock", "put-get", SWITCHING),
        Proof("locks-invalidated-without-write-lock", "invalidate-fault", TORTURE),
    ),
    "balance": (
        Proof("b13-slots-change-within-invalidation", "slot-delete-notifier"),
        Proof("balance-counted-twice", "notifier-fault", TORTURE),
        Proof("balance-sequence-stays", "notifier-fault", MPROTECTED),
        Proof("balance-one-unit-given-back", "notifier-fault"),
        Proof("balance-begun-for-each-slot", "discard-two-slots"),
        Proof("balance-notifier-released-twice", "notifier-write"),
        Proof("balance-user-dropped-twice", "put-destroy", TORTURE),
    ),
    "progress": (
        Proof("b39-sequence-cut-to-32-bits", "notifier-wrap"),
        Proof("b02-walk-yields-where-it-stands", "notifier-yield", TORTURE),
        Proof("b10-vcpu-zaps-what-it-drops", "put-get-worker", SWITCHING),
        Proof("b26-root-zapped-without-a-yield", "put-deep"),
        Proof("progress-any-invalidation-counts", "two-notifiers"),
        Proof("progress-reload-forgotten", "invalidate-fault", TORTURE, keep_going=True),
        Proof("progress-passes-skipped", "invalidate-steps", STEPS_4K),
        Proof("progress-leaf-without-its-permission", stress=TORTURE),
        Proof("b49-prefault-retries-in-its-srcu-section", "prefault-delete"),
        Proof("b51-progress-of-the-inner-walk", "recover-always-yielding"),
    ),
}

# Bugs that break no rule of an oracle: {mutation: the scenario whose own check finds it}.
CHECKED = {"b53-prefault-rebuilds-a-leaf": "prefault-mapped"}


def diff_of(mutation: str) -> Path:
    """The mutation's diff: one of the tests', or a bug of the catalogue."""
    found = [folder / f"{mutation}.diff" for folder in (BUGS, MUTATIONS)]
    (path,) = (path for path in [*found, CATALOGUE / mutation / "patch.diff"] if path.is_file())
    return path


def found_by_exploring(folder: Path) -> dict[str, tuple[str, str]]:
    """(scenario, oracle) of each diff of a folder that exploring finds; its first if several."""
    found = {mutation: (scenario, "check") for mutation, scenario in CHECKED.items()}
    found = {name: each for name, each in found.items() if diff_of(name).parent == folder}
    for oracle, proofs in PROOFS.items():
        for proof in proofs:
            if proof.scenario and diff_of(proof.mutation).parent == folder:
                found.setdefault(proof.mutation, (proof.scenario, oracle))
    return found
