"""The counters of workers: what a full disk does to them, and names that are too long for a slot."""

import resource
import signal

import pytest

from holdfast.backend.serving.meters import Meters, read_meters

LABEL = "高风险"


def test_counters_have_blocks_of_their_own_on_the_disk(tmp_path):
    meters = Meters(tmp_path)
    for number in range(70):
        meters.arm("风险", f"dep_{number}", {LABEL: "binary"}).answered([10], 1, {LABEL: [0.5]})
    (file,) = tmp_path.iterdir()
    # A hole would kill the process that counts in it when the disk is full.
    assert file.stat().st_blocks * 512 >= file.stat().st_size >= 140 * 1024
    assert all(arm.requests == 1 for arm in read_meters(tmp_path).values())


def test_what_has_no_room_is_told_and_the_others_count_on(tmp_path):
    meters = Meters(tmp_path)
    first = meters.arm("风险", "dep_0", {LABEL: "binary"})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))
        for number in range(1, 32):
            meters.arm("风险", f"dep_{number}", {LABEL: "binary"})
        with pytest.raises(OSError, match="large"):
            meters.arm("风险", "dep_32", {LABEL: "binary"})
        first.answered([10], 1, {LABEL: [0.5]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    for number in range(70):
        meters.arm("风险", f"dep_{number}", {LABEL: "binary"}).answered([10], 1, {LABEL: [0.5]})
    counted = read_meters(tmp_path)
    assert len(counted) == 70
    assert (counted["dep_0"].requests, counted["dep_69"].outputs[LABEL].count) == (2, 1)


def test_names_of_any_length_are_counted(tmp_path):
    target, label = "风" * 200, "险" * 200
    Meters(tmp_path).arm(target, "dep_1", {label: "binary", "低": "binary"}).answered([1], 1, {label: [0.1], "低": [1]})
    (counted,) = read_meters(tmp_path).values()
    assert counted.requests == 1
    assert len(counted.outputs) == 2
    assert [one.count for one in counted.outputs.values()] == [1, 1]
