"""What callers ask of a board, checked before anything is sent; BadValue names the field.

Boards check nothing: a wrong index, a fifth argument or a long type hangs them or resets them
(section 15, pitfall 5). So a call is known by names, and its packet is made from the table;
packets of strangers are first understood as such calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from buswork.flipper.wire.errors import Error
from buswork.flipper.wire.exchanges import Refused
from buswork.flipper.wire.modules import Function, Kind, Module, Parameter, Table
from buswork.flipper.wire.packets import (
    Argument,
    Call,
    Event,
    Load,
    Pull,
    Push,
    Receive,
    Request,
    Send,
)
from buswork.flipper.wire.terms import (
    LIMITS,
    MAX_ARGUMENTS,
    MAX_IMAGE_BYTES,
    BadValue,
    Generation,
    Processor,
    Type,
)

_TYPES = {int(code): code for code in Type}
_SHORT_SIGNED: Final = frozenset((Type.INT8, Type.INT16, Type.INT32))
_MAX_U32 = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Invocation:
    """A call by names, of any board that has them: its values are in their ranges."""

    module: str
    function: str
    values: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Transfer:
    """A push or pull by names."""

    module: str
    function: str
    length: int


# -- calls by name ---------------------------------------------------------------------------------


def call(table: Table, module: str, function: str, values: Sequence[object]) -> Call:
    """The call of a function with these values, as its board wants it."""
    found, its = table.find(module, function)
    if its.kind is not Kind.CALL:
        raise BadValue("function", f"{module}.{function} transfers data: it is no plain call")
    parameters = its.parameters
    if len(values) != len(parameters):
        raise BadValue("values", f"{module}.{its.usage} takes {_counted(len(parameters))}")
    arguments = tuple([
        Argument(parameter.type, _number(parameter, value))
        for parameter, value in zip(parameters, values, strict=True)
    ])  # fmt: skip
    return Call(found.index, its.number, its.returns, arguments)


def transfer(table: Table, module: str, function: str, kind: Kind) -> tuple[Module, Function]:
    """Where data go to or come from."""
    found, its = table.find(module, function)
    if its.kind is not kind:
        have = [f"{m.name}.{f.name}" for m, f in table if f.kind is kind]
        verb = "takes" if kind is Kind.PUSH else "brings"
        text = f"{module}.{function} {verb} no data; these do: {', '.join(have)}"
        raise BadValue("function", text)
    return found, its


def transfer_request(
    table: Table, module: str, function: str, kind: Kind, length: object
) -> Push | Pull:
    """One transfer of the first generation; what is longer has to be split before."""
    found, its = transfer(table, module, function, kind)
    if table.generation is not Generation.G1:
        raise BadValue("request", "the second generation transfers data in several requests")
    length = _length(length, LIMITS[table.processor].transfer_bytes)
    make = Push if kind is Kind.PUSH else Pull
    return make(found.index, its.number, length)


def user_call(
    processor: Processor, index: int, function: int, returns: int, arguments: Sequence[Argument]
) -> Call:
    """Of a module that was loaded: its prototypes are not known, the processor's limits are.

    The 4S knows no signed types; it gets such values as an int, in which they keep their sign.
    """
    limits = LIMITS[processor]
    if not limits.user_modules:
        raise BadValue("module", f"the {processor} runs no user modules")
    if not 0 <= index < limits.user_modules:
        highest = limits.user_modules - 1
        raise BadValue("module", f"a user module of the {processor} has an index of 0 to {highest}")
    if not 0 <= function <= 0xFF:
        raise BadValue("function", "a function has a number of 0 to 255")
    if _TYPES.get(returns) not in limits.returns:
        raise BadValue("returns", f"the {processor} returns nothing of the type {_type(returns)}")
    if len(arguments) > MAX_ARGUMENTS:
        raise BadValue("values", f"a call takes {MAX_ARGUMENTS} values at the most")
    checked = []
    for place, (kind, value) in enumerate(arguments):
        field = f"values[{place}]"
        if not kind.lowest <= value <= kind.highest:
            raise BadValue(field, f"{field} must be {kind.lowest} to {kind.highest}")
        if processor is Processor.S4 and kind in _SHORT_SIGNED:
            kind = Type.INT
        if kind not in limits.arguments:
            raise BadValue(field, f"the {processor} takes no values of the type {_type(kind)}")
        checked.append(Argument(kind, value))
    return Call(index, function, returns, tuple(checked), user=True)


def image_length(length: object) -> int:
    return _length(length, MAX_IMAGE_BYTES)


# -- packets of strangers --------------------------------------------------------------------------


def understood(
    table: Table, request: Request, max_transfer: int | None = None
) -> Invocation | Transfer | Request:
    """What a packet for a board with this table means; BadValue if it would do harm.

    Calls and transfers become names, so that they may go to a processor with other numbers; the
    types of the arguments don't matter where the values fit, for boards get those of the table.
    `max_transfer` is for who splits what is too long for the processor. The others come back as
    they are, in their limits: whether they are allowed is not for here.
    """
    match request:
        case Call(user=True):
            return user_call(table.processor, *request[:4])
        case Call(index, number, _, arguments):
            module, function = table.at(index, number)
            values = _unsigned(function, arguments)
            call(table, module.name, function.name, values)
            return Invocation(module.name, function.name, values)
        case Push(index, number, length) | Pull(index, number, length):
            module, function = table.at(index, number)
            kind = Kind.PUSH if isinstance(request, Push) else Kind.PULL
            transfer(table, module.name, function.name, kind)
            _length(length, max_transfer or LIMITS[table.processor].transfer_bytes)
            return Transfer(module.name, function.name, length)
        case Send(length) | Receive(length) | Load(length):
            if not LIMITS[table.processor].memory_classes:
                name = type(request).__name__.lower()
                raise BadValue("request", f"the {table.processor} can't {name}")
            if isinstance(request, Load):
                image_length(length)
            else:
                _length(length, LIMITS[table.processor].transfer_bytes)
            if isinstance(request, Receive) and request.address + length - 1 > _MAX_U32:
                raise BadValue("address", "the 4S has addresses of 32 bits")
            return request
        case Event():
            return request
        case _:
            name = type(request).__name__
            raise BadValue("request", f"{name} is no request for a board of this generation")


# What a board would call it; the rest is outside of what there is.
_ERRORS: Final = {
    "module": Error.E_MODULE,
    "request": Error.E_UNIMPLEMENTED,
    "returns": Error.E_TYPE,
}


def refusal(error: BadValue) -> Refused:
    """What a packet is answered that is not understood."""
    return Refused(_ERRORS.get(error.field, Error.E_BOUNDARY), str(error))


def _unsigned(function: Function, arguments: tuple[Argument, ...]) -> tuple[int, ...]:
    """Values of a packet: a negative one is to a board the unsigned one of the same bits."""
    values = [argument.value for argument in arguments]
    for place, (parameter, value) in enumerate(zip(function.parameters, values, strict=False)):
        modulus = parameter.type.highest + 1
        if -modulus // 2 <= value < 0:
            values[place] = value + modulus
    return tuple(values)


# -- numbers ---------------------------------------------------------------------------------------


def _number(parameter: Parameter, value: object) -> int:
    # A bool is an int to Python, but no number.
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValue(parameter.name, f"{parameter.name} must be a whole number")
    if not parameter.lowest <= value <= parameter.highest:
        text = f"{parameter.name} must be {parameter.lowest} to {parameter.highest}"
        raise BadValue(parameter.name, text)
    return int(value)


def _length(value: object, highest: int) -> int:
    return _number(Parameter("length", Type.UINT32, "", highest, 1), value)


def _counted(count: int) -> str:
    return f"{count or 'no'} value{'' if count == 1 else 's'}"


def _type(code: int) -> str:
    found = _TYPES.get(code)
    return found.name.lower() if found is not None else str(code)
