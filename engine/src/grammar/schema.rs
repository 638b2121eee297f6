//! What a schema costs to compile, counted before it is compiled.
//!
//! The compiler multiplies out a union that stands beside other keywords, follows each reference once, and recurses. This
//! walk does the same with numbers only.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{GrammarError, GrammarLimits, within};

/// Keywords whose value is a map of schemas.
const MAPS: [&str; 2] = ["properties", "patternProperties"];
/// Keywords whose value is a schema or a list of them, each for a part of the value.
const PARTS: [&str; 4] = ["items", "prefixItems", "additionalItems", "additionalProperties"];
/// Keywords that constrain nothing.
const NOTES: [&str; 15] = [
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "description",
    "examples",
    "id",
    "readOnly",
    "title",
    "writeOnly",
];

/// Refuses a schema that would take too much to compile.
pub(super) fn check(schema: &Value, limits: &GrammarLimits) -> Result<(), GrammarError> {
    within("the schema's length", text_bytes(schema), limits.max_source_bytes as u64)?;
    let mut walk = Walk { root: schema, limits, nodes: 0, patterns: 0, targets: HashMap::new() };
    walk.schema(schema, 0, &["#"]).map(|_| ())
}

/// About the length of a value as text.
fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64 + 2,
        Value::Array(items) => items.iter().map(|item| text_bytes(item) + 1).sum::<u64>() + 2,
        Value::Object(map) => {
            map.iter().map(|(key, value)| key.len() as u64 + 4 + text_bytes(value)).sum::<u64>() + 2
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 4,
    }
}

struct Walk<'a> {
    root: &'a Value,
    limits: &'a GrammarLimits,
    nodes: u64,
    patterns: u64,
    /// What each reference costs; 1 while it is being walked.
    targets: HashMap<&'a str, u64>,
}

impl<'a> Walk<'a> {
    /// Cost of a schema. `chain` are the references that led here without going into a part of the value.
    fn schema(&mut self, schema: &'a Value, depth: usize, chain: &[&'a str]) -> Result<u64, GrammarError> {
        within("the schema's depth", depth as u64, self.limits.max_depth as u64)?;
        self.count(1)?;
        let Value::Object(map) = schema else { return Ok(1) };
        let mut own = 1_u64;
        let mut unions = 1_u64;
        for (key, value) in map {
            let key = key.as_str();
            if MAPS.contains(&key) {
                let parts = value.as_object().into_iter().flat_map(Map::values);
                own = own.saturating_add(self.parts(parts, depth)?);
            } else if PARTS.contains(&key) {
                own = own.saturating_add(self.parts(list(value).iter(), depth)?);
            } else {
                unions = unions.saturating_mul(self.in_place(map, key, value, depth, chain)?);
            }
        }
        let work = own.saturating_mul(unions);
        within("the schema's size after its unions are multiplied out", work, self.limits.max_schema_work)?;
        Ok(work)
    }

    /// By how much a keyword that applies to the same value multiplies the others.
    fn in_place(
        &mut self,
        map: &'a Map<String, Value>,
        key: &str,
        value: &'a Value,
        depth: usize,
        chain: &[&'a str],
    ) -> Result<u64, GrammarError> {
        match (key, value) {
            ("anyOf" | "oneOf", Value::Array(options)) => {
                let mut sum = 0_u64;
                for option in options {
                    sum = sum.saturating_add(self.schema(option, depth + 1, chain)?);
                }
                // Each option of a oneOf is compared with each other one.
                Ok(if key == "oneOf" { sum.max(sum.saturating_mul(sum) / 8) } else { sum }.max(1))
            }
            ("allOf", Value::Array(all)) => all.iter().try_fold(1_u64, |product, one| {
                Ok(product.saturating_mul(self.schema(one, depth + 1, chain)?))
            }),
            ("enum", Value::Array(values)) => {
                let sum = values.iter().map(weight).sum();
                self.count(sum)?;
                Ok(sum.max(1))
            }
            ("const", value) => {
                self.count(weight(value))?;
                Ok(weight(value))
            }
            ("pattern" | "format", _) => {
                self.patterns += 1;
                within(
                    "the schema's number of patterns and formats",
                    self.patterns,
                    self.limits.max_patterns as u64,
                )?;
                Ok(1)
            }
            ("$ref", Value::String(reference)) => {
                let alone = map.keys().all(|key| key == "$ref" || NOTES.contains(&key.as_str()));
                let cost = self.reference(reference, depth, chain)?;
                Ok(if alone { 1 } else { cost })
            }
            _ => Ok(1),
        }
    }

    fn parts(&mut self, parts: impl Iterator<Item = &'a Value>, depth: usize) -> Result<u64, GrammarError> {
        let mut sum = 0_u64;
        for part in parts {
            sum = sum.saturating_add(self.schema(part, depth + 1, &[])?);
        }
        Ok(sum)
    }

    fn reference(
        &mut self,
        reference: &'a str,
        depth: usize,
        chain: &[&'a str],
    ) -> Result<u64, GrammarError> {
        let refuse = |reason| {
            Err(GrammarError::Reference { reference: reference.chars().take(100).collect(), reason })
        };
        if chain.contains(&reference) {
            return refuse("refers to itself without anything in between");
        }
        if let Some(cost) = self.targets.get(reference) {
            return Ok(*cost);
        }
        let Some(pointer) = reference.strip_prefix('#') else {
            return refuse("leads outside the schema; only references that begin with # are followed");
        };
        if pointer.contains(['~', '%']) {
            return refuse("has an escaped character; rename the definition");
        }
        let Some(target) = self.root.pointer(pointer) else { return refuse("leads nowhere") };
        self.targets.insert(reference, 1);
        let chain: Vec<&'a str> = chain.iter().copied().chain([reference]).collect();
        let cost = self.schema(target, depth + 1, &chain)?;
        self.targets.insert(reference, cost);
        Ok(cost)
    }

    fn count(&mut self, nodes: u64) -> Result<(), GrammarError> {
        self.nodes = self.nodes.saturating_add(nodes);
        within(
            "the schema's number of subschemas and values",
            self.nodes,
            self.limits.max_schema_nodes as u64,
        )
    }
}

/// Scalars in a literal value.
fn weight(value: &Value) -> u64 {
    match value {
        Value::Array(items) => items.iter().map(weight).sum::<u64>() + 1,
        Value::Object(map) => map.values().map(weight).sum::<u64>() + 1,
        _ => 1,
    }
}

/// A value, or the items of a list.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice)
}
