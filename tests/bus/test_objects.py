import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.toyface import CONTRACTS, OTHER, OtherFace, ToyFace

from buswork.bus.contract import ContractError
from buswork.bus.library import is_object_path_valid, variant
from buswork.bus.objects import (
    Exported,
    Face,
    ObjectTree,
    Route,
    bind,
    escape_name,
    in_order,
)
from buswork.store.face import StoreFace

PATHS = ["/", "/a", "/a/b", "/a/b/c", "/a/bc", "/ab", "/x/y/z"]


def exported(path):
    return Exported(path, "/", {})


def tree_of(*paths, managers=()):
    tree = ObjectTree()
    for path in paths:
        tree.add(exported(path), manager=path in managers)
    return tree


def paths_below(tree, path):
    return [each.path for each in tree.below(path)]


def test_an_object_is_found_by_its_path():
    tree = tree_of("/a/b")
    assert tree.get("/a/b").path == "/a/b"
    for path in ("/a", "/", "/a/b/c", "/a/", "", "/a/b/"):
        assert tree.get(path) is None


def test_what_lies_above_an_object_is_a_node():
    tree = tree_of("/a/b/c")
    assert [tree.is_node(path) for path in ("/", "/a", "/a/b", "/a/b/c")] == [True] * 4
    assert [tree.is_node(path) for path in ("/b", "/a/c", "/a/b/c/d", "")] == [False] * 4
    assert (tree.children("/"), tree.children("/a"), tree.children("/a/b/c")) == (["a"], ["b"], [])


def test_what_is_below_does_not_count_itself_nor_its_namesakes():
    tree = tree_of(*PATHS)
    assert set(paths_below(tree, "/a")) == {"/a/b", "/a/b/c", "/a/bc"}
    assert set(paths_below(tree, "/a/b")) == {"/a/b/c"}
    assert set(paths_below(tree, "/")) == set(PATHS) - {"/"}


def test_a_path_is_taken_once():
    tree = tree_of("/a")
    with pytest.raises(ContractError):
        tree.add(exported("/a"), manager=False)
    first = tree.remove("/a")
    assert not first.alive
    tree.add(exported("/a"), manager=False)
    assert tree.get("/a") is not first


def test_the_manager_of_an_object_is_the_nearest_above_it():
    tree = tree_of(*PATHS, managers=("/a", "/a/b"))
    assert [tree.manager_of(path) for path in PATHS] == [
        None, None, "/a", "/a/b", "/a", None, None,
    ]  # fmt: skip
    assert tree.is_manager("/a")
    tree.remove("/a/b")
    assert tree.manager_of("/a/b/c") == "/a"
    assert not tree.is_manager("/a/b")


def test_the_root_may_be_an_object_and_a_manager():
    tree = tree_of("/", "/a", managers=("/",))
    assert tree.manager_of("/a") == "/"
    assert tree.manager_of("/") is None
    assert paths_below(tree, "/") == ["/a"]


@pytest.mark.parametrize(
    ("path", "noted"),
    [("/a", ["/a/b", "/a/b/c", "/a/new"]), ("/", ["/a", "/a/b", "/a/b/c", "/a/new", "/ab"])],
)
def test_what_comes_goes_or_changes_below_a_path_is_noted(path, noted):
    tree = tree_of("/", "/a", "/a/b", "/a/b/c", "/ab")
    notes, others = {}, {}
    with tree.noting(path, notes):
        with tree.noting("/x", others):
            tree.add(exported("/a/new"), manager=False)
        tree.remove("/a/b/c")
        for changed in ("/", "/a", "/a/b", "/ab"):
            tree.note(changed)
    tree.remove("/a/b")
    tree.add(exported("/a/newer"), manager=False)
    assert (sorted(notes), others) == (noted, {})


class TreeMachine(RuleBasedStateMachine):
    """The tree against the plainest model: a set of paths."""

    def __init__(self):
        super().__init__()
        self.tree = ObjectTree()
        self.paths = set()

    @rule(path=st.sampled_from(PATHS), manager=st.booleans())
    def add(self, path, manager):
        if path not in self.paths:
            self.tree.add(exported(path), manager=manager)
            self.paths.add(path)

    @precondition(lambda self: self.paths)
    @rule(data=st.data())
    def remove(self, data):
        path = data.draw(st.sampled_from(sorted(self.paths)))
        self.tree.remove(path)
        self.paths.discard(path)

    @invariant()
    def agrees(self):
        for path in PATHS:
            prefix = path.rstrip("/") + "/"
            below = {each for each in self.paths if each.startswith(prefix) and each != path}
            assert set(paths_below(self.tree, path)) == below
            assert self.tree.is_node(path) == (path in self.paths or bool(below))
            children = {each.removeprefix(prefix).split("/")[0] for each in below}
            assert set(self.tree.children(path)) == children
        if not self.paths:
            assert self.tree._children == {}


TestTree = TreeMachine.TestCase


# Faces


def test_a_face_that_keeps_its_contract_is_bound():
    bound = bind(OtherFace())
    assert bound.contract is CONTRACTS[OTHER]
    assert bound.public_properties("/org/toy") == {"Mood": variant("s", "good")}


def test_19_public_properties_are_those_that_everybody_may_read():
    assert set(bind(ToyFace()).public_properties("/org/toy")) == {
        "Public", "Constant", "Silent", "Large", "Dial",
    }  # fmt: skip


@pytest.mark.parametrize("missing", ["echo", "set_public", "set_knob", "secret"])
def test_09_a_face_that_lacks_something_is_refused(missing):
    class Lame(ToyFace):
        def __getattribute__(self, name):
            if name == missing:
                raise AttributeError(name)
            return super().__getattribute__(name)

    with pytest.raises(ContractError):
        bind(Lame())


def test_a_face_has_the_shipped_contract_unless_it_brings_its_own():
    class Shipped(Face):
        interface = StoreFace.interface

    assert Shipped().contract().name == StoreFace.interface
    assert Shipped().owner_uid("/", ()) is None


def test_order_is_marked_at_the_handler():
    @in_order
    async def handler(call):
        pass

    async def other(call):
        pass

    assert Route("", "", 0, handler, bind(OtherFace()).contract.methods["Both"].guard).in_order
    assert not Route("", "", 0, other, bind(OtherFace()).contract.methods["Both"].guard).in_order
    assert Route("", "", 0, other, bind(OtherFace()).contract.methods["Both"].guard).wing == ""


# Names in paths (ATTACKS 21, 26)


@pytest.mark.parametrize(
    ("name", "element"),
    [
        ("abcXYZ019", "abcXYZ019"),
        ("", "_"),
        ("_", "_5f"),
        ("a_b", "a_5fb"),
        (":1.7", "_3a1_2e7"),
        ("é", "_c3_a9"),
        ("../x", "_2e_2e_2fx"),
        (b"\xff\0", "_ff_00"),
        ("²", "_c2_b2"),
    ],
)
def test_26_foreign_names_as_elements_of_a_path(name, element):
    assert escape_name(name) == element


@given(st.binary() | st.text(st.characters(exclude_categories=["Cs"])))
def test_26_every_name_makes_a_valid_path(name):
    assert is_object_path_valid("/" + escape_name(name))


@pytest.mark.attack(21)
@given(st.binary(max_size=4), st.binary(max_size=4))
def test_21_different_names_make_different_paths(one, other):
    assert (escape_name(one) == escape_name(other)) == (one == other)
