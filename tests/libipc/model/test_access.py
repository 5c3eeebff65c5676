"""Who may do what with a file: the kernel's rule, told to the kernel and asked of us."""

import os
import struct

import pytest
from libipc.native.town import let_others_in

from buswork.libipc.model.access import CONNECT, READ, SEARCH, WRITE, FileFacts, may
from buswork.libipc.model.terms import Who

OWNER, USER, GROUP, NAMED_GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NONE = 0xFFFFFFFF


def acl(*entries):
    packed = b"".join(struct.pack("<HHI", *entry) for entry in entries)
    return struct.pack("<I", 2) + packed


ALICE, BOB, CAROL = Who(1000), Who(1001, frozenset((50,))), Who(1002)


@pytest.mark.parametrize(
    ("mode", "alice", "bob", "carol"),
    [
        (0o755, True, False, False),
        (0o775, True, True, False),
        (0o666, True, True, True),
        # Each has the rights of the first that fits, even if those that follow had more.
        (0o066, False, True, True),
        (0o606, True, False, True),
        (0o000, False, False, False),
    ],
)
def test_the_modes_first_part_that_fits_counts(mode, alice, bob, carol):
    facts = FileFacts(1000, 50, mode)
    assert [may(who, facts, CONNECT) for who in (ALICE, BOB, CAROL)] == [alice, bob, carol]


def test_root_may_everything():
    assert may(Who(0), FileFacts(1000, 50, 0), CONNECT | READ | SEARCH)


def test_all_that_is_wanted_has_to_be_granted():
    facts = FileFacts(0, 0, 0o1773)
    assert may(ALICE, facts, SEARCH | WRITE)
    assert not may(ALICE, facts, SEARCH | READ)


def test_the_groups_bits_are_no_rights_of_the_group_where_there_is_a_list():
    """What `setfacl -m u:buswork:rw` makes of a socket of mode 0700: its mode is 0760 then."""
    facts = FileFacts(
        1000, 50, 0o760, acl((OWNER, 7, NONE), (USER, 6, 999), (GROUP, 0, NONE), (MASK, 6, NONE))
    )
    assert may(ALICE, facts, CONNECT)
    assert may(Who(999), facts, CONNECT)
    assert not may(BOB, facts, CONNECT)
    assert not may(CAROL, facts, CONNECT)


def test_the_mask_bounds_all_but_the_owner_and_the_others():
    listed = acl(
        (OWNER, 6, NONE), (USER, 6, 1001), (GROUP, 6, NONE), (MASK, 4, NONE), (OTHER, 6, NONE)
    )
    facts = FileFacts(1000, 50, 0o646, listed)
    assert may(ALICE, facts, CONNECT)
    assert not may(BOB, facts, CONNECT)  # he is named
    assert not may(Who(1003, frozenset((50,))), facts, CONNECT)
    assert may(CAROL, facts, CONNECT)


def test_one_of_the_groups_has_to_grant_it():
    listed = acl(
        (OWNER, 0, NONE), (GROUP, 4, NONE), (NAMED_GROUP, 6, 60), (MASK, 7, NONE), (OTHER, 6, NONE)
    )
    facts = FileFacts(1000, 50, 0o076, listed)
    assert not may(ALICE, facts, CONNECT)  # the owner's own entry is all she has
    assert not may(BOB, facts, CONNECT)  # in a group, so he is no other
    assert may(Who(1003, frozenset((50, 60))), facts, CONNECT)
    assert may(CAROL, facts, CONNECT)


@pytest.mark.parametrize("broken", [b"\x02", b"\x03\0\0\0", acl((OTHER, 7, NONE))[:-1]])
def test_a_list_that_nobody_understands_lets_nobody_in(broken):
    assert not may(CAROL, FileFacts(1000, 50, 0o777, broken), CONNECT)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes others")
@pytest.mark.parametrize("mode", [0o000, 0o070, 0o007, 0o707, 0o770, 0o755, 0o666, 0o600])
@pytest.mark.parametrize("who", [ALICE, BOB, CAROL], ids=["alice", "bob", "carol"])
def test_the_kernel_says_the_same(tmp_path, mode, who):
    let_others_in(tmp_path)
    file = tmp_path / "file"
    file.touch()
    os.chown(file, 1000, 50)
    file.chmod(mode)
    child = os.fork()
    if not child:
        os.setgroups(sorted(who.gids))
        os.setresgid(9999, 9999, 9999)
        os.setresuid(who.uid, who.uid, who.uid)
        os._exit(int(os.access(file, os.W_OK)))
    allowed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert may(who, FileFacts(1000, 50, mode), WRITE) == allowed
