"""Schemas to hold answers to: written by hand for what people ask for and for odd corners, and generated from a seed."""

import random

FORMATS = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]


def text(most=12, **more):
    return {"type": "string", "maxLength": most, **more}


def record(properties, required=None, **more):
    """An object of these properties and no others; all are required unless said."""
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **more}


def array(items, least=0, most=3, **more):
    return {"type": "array", "items": items, "minItems": least, "maxItems": most, **more}


INTEGER = {"type": "integer", "minimum": 0, "maximum": 999}
BOOLEAN = {"type": "boolean"}
NULL = {"type": "null"}
COLOUR = {"enum": ["red", "green", "blue"]}


def everyday():
    """What applications ask for."""
    person = record({"name": text(20), "age": {"type": "integer", "minimum": 0, "maximum": 150}})
    return {
        "person": person,
        "people": record({"people": array(person, 1, 2)}),
        "sentiment": record({"label": {"enum": ["positive", "negative", "neutral"]}, "score": {"type": "number", "minimum": 0, "maximum": 1}}),
        "yes or no": record({"answer": BOOLEAN}),
        "classification": {"enum": ["spam", "ham"]},
        "invoice": record({"number": text(pattern="^INV-[0-9]{4}$"), "total": {"type": "number", "minimum": 0, "maximum": 10000}, "paid": BOOLEAN,
                           "lines": array(record({"item": text(), "count": {"type": "integer", "minimum": 1, "maximum": 9}}), 1, 2)}),
        "address": record({"street": text(20), "zip": text(pattern="^[0-9]{5}$"), "country": text(pattern="^[A-Z]{2}$")}),
        "event": record({"title": text(20), "day": {"type": "string", "format": "date"}, "online": BOOLEAN}),
        "tags": record({"tags": array(text(8), 1, 3)}),
        "maybe": record({"name": text(), "nickname": {"type": ["string", "null"], "maxLength": 8}}),
        "optional": record({"name": text(), "note": text()}, required=["name"]),
        "nothing required": record({"a": INTEGER, "b": INTEGER}, required=[]),
        "steps": record({"steps": array(record({"explanation": text(20), "output": text(12)}), 1, 2), "final": text(12)}),
        "command": {"anyOf": [record({"kind": {"const": "move"}, "x": INTEGER}), record({"kind": {"const": "say"}, "text": text()})]},
        "described": record({"x": {**INTEGER, "title": "X", "description": "how far", "default": 3, "examples": [4]}}, title="T", description="d"),
        "umlauts": record({"größe": INTEGER, "名前": text(6), "emoji 🙂": BOOLEAN}),
        "quotes": record({'a"b': INTEGER, "back\\slash": BOOLEAN, "new\nline": NULL}),
        "long names": record({"n" * 60: BOOLEAN}),
        "many fields": record({f"f{i}": {"enum": [i]} for i in range(12)}),
        "wide enum": {"enum": [f"choice {i}" for i in range(300)]},
    }


def corners():
    """Keywords at their borders."""
    return {
        "string": text(10),
        "least length": text(10, minLength=8),
        "exact length": text(5, minLength=5),
        "empty string": text(0),
        "integer": {"type": "integer", "minimum": -5, "maximum": 5},
        "exclusive": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
        "negative": {"type": "integer", "minimum": -200, "maximum": -100},
        "one number": {"type": "number", "minimum": 2.5, "maximum": 2.5},
        "fraction": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.01},
        "multiple": {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 100},
        "const text": {"const": "a \"quoted\" ünïcode\n"},
        "const object": {"const": {"a": [1, None, {"b": True}]}},
        "const null": {"const": None},
        "mixed enum": {"enum": [1, "1", None, True, [1], {"a": 1}]},
        "types": {"type": ["integer", "boolean", "null"], "minimum": 0, "maximum": 9},
        "empty array": array(INTEGER, 0, 0),
        "exact array": array(BOOLEAN, 3, 3),
        "tuple": {"type": "array", "prefixItems": [INTEGER, BOOLEAN, text(4)], "items": False, "minItems": 3},
        "open tuple": {"type": "array", "prefixItems": [INTEGER], "items": BOOLEAN, "minItems": 2, "maxItems": 3},
        "matrix": array(array({"type": "integer", "minimum": 0, "maximum": 9}, 2, 2), 2, 2),
        "empty object": record({}),
        "map": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9}, "maxProperties": 2},
        "patterned names": {"type": "object", "patternProperties": {"^[a-c]$": BOOLEAN}, "additionalProperties": False, "maxProperties": 2},
        "names and more": {"type": "object", "properties": {"a": INTEGER}, "required": ["a"], "additionalProperties": BOOLEAN, "maxProperties": 2},
        "deep": nested(12),
        "deep arrays": deep_array(10),
        "alternatives": {"pattern": "^(cat|dog|bird)$", "type": "string"},
        "classes": {"pattern": "^[A-Fa-f0-9]{8}$", "type": "string"},
        "repeated groups": {"pattern": "^([a-z]{2}-){2}[0-9]+$", "type": "string", "maxLength": 12},
        "unanchored": {"pattern": "ab", "type": "string", "maxLength": 8},
        "word characters": {"pattern": "^\\w{3,6}$", "type": "string"},
        "digits": {"pattern": "^\\d{3}\\s\\d{2}$", "type": "string"},
        "escapes": {"pattern": "^[\"\\\\/]{2,4}$", "type": "string"},
        "not": {"pattern": "^[^a-m]{1,5}$", "type": "string"},
    }


def nested(depth):
    inner = {"type": "boolean"}
    for i in range(depth):
        inner = record({f"level{i % 3}": inner})
    return inner


def deep_array(depth):
    inner = {"type": "null"}
    for _ in range(depth):
        inner = array(inner, 1, 1)
    return inner


def unions():
    halves = [record({"a": INTEGER}), record({"b": BOOLEAN})]
    return {
        "any of types": {"anyOf": [text(6), INTEGER, NULL]},
        "any of records": {"anyOf": halves},
        "one of": {"oneOf": halves},
        "one of constants": {"oneOf": [{"const": "a"}, {"const": "b"}]},
        "nullable record": record({"inner": {"anyOf": [record({"x": INTEGER}), NULL]}}),
        "any of arrays": {"anyOf": [array(INTEGER, 1, 2), array(BOOLEAN, 1, 2)]},
        "union in array": array({"anyOf": [INTEGER, COLOUR]}, 1, 3),
        "union of unions": {"anyOf": [{"anyOf": [NULL, BOOLEAN]}, {"anyOf": [INTEGER, COLOUR]}]},
        "all of": {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 9}]},
        "all of records": {"type": "object", "allOf": [{"properties": {"a": INTEGER}, "required": ["a"]}, {"properties": {"b": BOOLEAN}, "required": ["b"]}],
                           "properties": {"a": True, "b": True}, "additionalProperties": False},
        "beside": {"type": "object", "properties": {"a": INTEGER, "b": BOOLEAN}, "additionalProperties": False, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        "discriminated": record({"shapes": array({"anyOf": [
            record({"type": {"const": "circle"}, "r": INTEGER}), record({"type": {"const": "box"}, "w": INTEGER, "h": INTEGER})]}, 1, 2)}),
    }


def references():
    node = {"$ref": "#/$defs/node"}
    leaf = {"anyOf": [NULL, node]}
    return {
        "definition": record({"a": {"$ref": "#/$defs/n"}, "b": {"$ref": "#/$defs/n"}}, **{"$defs": {"n": INTEGER}}),
        "old definition": record({"a": {"$ref": "#/definitions/n"}}, definitions={"n": COLOUR}),
        "chain of definitions": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": BOOLEAN}},
        "into properties": record({"a": INTEGER, "b": {"$ref": "#/properties/a"}}),
        "list": {"$ref": "#/$defs/node", "$defs": {"node": record({"value": {"enum": [1, 2]}, "next": leaf})}},
        "tree": {"$ref": "#/$defs/node", "$defs": {"node": record({"v": {"enum": [0, 1]}, "children": array(node, 0, 1)})}},
        "root": record({"v": BOOLEAN, "inner": {"anyOf": [NULL, {"$ref": "#"}]}}),
        "expression": {"$ref": "#/$defs/e", "$defs": {
            "e": {"anyOf": [{"enum": [1, 2]}, {"$ref": "#/$defs/sum"}]},
            "sum": record({"op": {"const": "+"}, "left": {"enum": [3, 4]}, "right": {"$ref": "#/$defs/e"}})}},
        "mutual": {"$ref": "#/$defs/a", "$defs": {
            "a": record({"b": {"anyOf": [NULL, {"$ref": "#/$defs/b"}]}}), "b": record({"a": {"anyOf": [NULL, {"$ref": "#/$defs/a"}]}})}},
        "beside a note": record({"a": {"$ref": "#/$defs/n", "description": "a number"}}, **{"$defs": {"n": INTEGER}}),
    }


def formats():
    alone = {f"format {name}": {"type": "string", "format": name, "maxLength": 60} for name in FORMATS}
    inside = {f"{name} inside": record({"at": {"type": "string", "format": name, "maxLength": 60}, "ok": BOOLEAN}) for name in FORMATS}
    return {**alone, **inside}


class Maker:
    """Random schemas whose answers are short."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def leaf(self):
        r = self.random
        low = r.randint(-50, 50)
        return r.choice([
            lambda: text(r.randint(1, 10)),
            lambda: text(10, minLength=r.randint(1, 4)),
            lambda: {"type": "integer", "minimum": low, "maximum": low + r.randint(0, 500)},
            lambda: {"type": "number", "minimum": low, "maximum": low + r.randint(1, 50)},
            lambda: {"type": "boolean"},
            lambda: {"type": "null"},
            lambda: {"const": r.choice(["x", 7, None, True, [1, 2], {"k": "v"}])},
            lambda: {"enum": r.sample(["alpha", "beta", "γ", 1, 2.5, None, False], r.randint(1, 4))},
            lambda: {"type": "string", "pattern": r.choice(["^[a-z]{2,6}$", "^[A-Z][a-z]{1,5}$", "^\\d{2}:\\d{2}$", "^(yes|no)$", "^#[0-9a-f]{6}$"])},
            lambda: {"type": "string", "format": r.choice(["date", "time", "ipv4", "uuid"])},
        ])()

    def make(self, depth):
        r = self.random
        if depth == 0:
            return self.leaf()
        names = r.sample(["id", "name", "a", "b", "kind", "value", "größe", "x y", "list", "ok"], r.randint(1, 3))
        return r.choice([
            lambda: record({name: self.make(depth - 1) for name in names}),
            lambda: record({name: self.make(depth - 1) for name in names}, required=names[: r.randint(0, len(names))]),
            lambda: record({name: self.make(depth - 1) for name in names}),
            lambda: array(self.make(depth - 1), r.randint(0, 1), r.randint(1, 2)),
            lambda: {"type": "array", "prefixItems": [self.make(depth - 1), self.leaf()], "items": False, "minItems": 2},
            lambda: {"anyOf": [self.make(depth - 1), {"type": "null"}]},
            lambda: {"anyOf": [self.make(depth - 1), self.leaf()]},
            self.leaf,
        ])()

    def schema(self):
        """A schema with an object at its root, some with definitions."""
        r = self.random
        names = r.sample(["first", "second", "third", "items"], r.randint(1, 2))
        properties = {name: self.make(r.randint(0, 2)) for name in names}
        if r.random() < 0.3:
            properties["shared"] = {"$ref": "#/$defs/shared"}
            return record(properties, **{"$defs": {"shared": self.make(1)}})
        return record(properties)


def corpus(seed, generated):
    """Pairs of name and schema."""
    by_hand = {**everyday(), **corners(), **unions(), **references(), **formats()}
    maker = Maker(seed)
    return list(by_hand.items()) + [(f"generated {i}", maker.schema()) for i in range(generated)]
