//! A pod being changed, and the JSON Patch (RFC 6902) that repeats the changes elsewhere.
//!
//! Operations work on a copy and are written down at the same time, so an operation always fits what came before it.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

/// The copy and the operations so far.
pub(super) struct Draft {
    object: Value,
    operations: Vec<Value>,
}

impl Draft {
    /// No change yet.
    pub(super) fn new(object: Value) -> Self {
        Self {
            object,
            operations: Vec::new(),
        }
    }

    /// What was done, in order.
    pub(super) fn into_operations(self) -> Vec<Value> {
        self.operations
    }

    /// Reads what is there by now.
    pub(super) fn at(&self, pointer: &str) -> Option<&Value> {
        self.object.pointer(pointer)
    }

    /// Sets a member of an object, which is made when it is missing, or an element of a list.
    pub(super) fn put(&mut self, parent: &str, key: &str, value: Value) {
        self.ensure(parent, || Value::Object(Map::new()));
        let pointer = format!("{parent}/{}", escaped(key));
        let held = self.object.pointer(&pointer);
        if held == Some(&value) {
            return;
        }
        let op = if held.is_some() { "replace" } else { "add" };
        match self.object.pointer_mut(parent) {
            Some(Value::Object(members)) => {
                members.insert(key.to_owned(), value.clone());
            }
            Some(Value::Array(items)) => {
                let item = key.parse().ok().and_then(|at: usize| items.get_mut(at));
                let Some(item) = item else { return };
                *item = value.clone();
            }
            _ => return,
        }
        self.operations
            .push(json!({ "op": op, "path": pointer, "value": value }));
    }

    /// Inserts into a list, which is made when it is missing.
    pub(super) fn insert(&mut self, list: &str, index: usize, value: Value) {
        self.ensure(list, || Value::Array(Vec::new()));
        let Some(Value::Array(items)) = self.object.pointer_mut(list) else {
            return;
        };
        let index = index.min(items.len());
        items.insert(index, value.clone());
        self.operations
            .push(json!({ "op": "add", "path": format!("{list}/{index}"), "value": value }));
    }

    /// Inserts at the end of a list.
    pub(super) fn push(&mut self, list: &str, value: Value) {
        self.insert(list, usize::MAX, value);
    }

    /// Sets an annotation of the pod.
    pub(super) fn annotate(&mut self, name: &str, value: &str) {
        self.put("/metadata/annotations", name, json!(value));
    }

    /// Makes what is missing or null.
    fn ensure(&mut self, pointer: &str, empty: fn() -> Value) {
        if self
            .object
            .pointer(pointer)
            .is_some_and(|held| !held.is_null())
        {
            return;
        }
        let Some((parent, key)) = pointer.rsplit_once('/') else {
            return;
        };
        let key = key.replace("~1", "/").replace("~0", "~");
        self.put(parent, &key, empty());
    }
}

/// A key as a JSON Pointer writes it (RFC 6901 section 3).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_made_once_and_what_is_set_already_is_no_operation() {
        let mut draft =
            Draft::new(json!({ "spec": { "containers": [{ "name": "a" }], "volumes": null } }));
        draft.annotate("a/b~c", "1");
        draft.annotate("a/b~c", "1");
        draft.annotate("d", "2");
        draft.push("/spec/volumes", json!("v"));
        draft.insert("/spec/containers", 0, json!("first"));
        draft.push("/spec/containers/1/env", json!("e"));
        draft.put("/spec/containers/1", "name", json!("b"));
        assert_eq!(
            draft.at("/metadata/annotations").unwrap(),
            &json!({ "a/b~c": "1", "d": "2" })
        );
        assert_eq!(
            Value::from(draft.into_operations()),
            json!([
                { "op": "add", "path": "/metadata", "value": {} },
                { "op": "add", "path": "/metadata/annotations", "value": {} },
                { "op": "add", "path": "/metadata/annotations/a~1b~0c", "value": "1" },
                { "op": "add", "path": "/metadata/annotations/d", "value": "2" },
                { "op": "replace", "path": "/spec/volumes", "value": [] },
                { "op": "add", "path": "/spec/volumes/0", "value": "v" },
                { "op": "add", "path": "/spec/containers/0", "value": "first" },
                { "op": "add", "path": "/spec/containers/1/env", "value": [] },
                { "op": "add", "path": "/spec/containers/1/env/0", "value": "e" },
                { "op": "replace", "path": "/spec/containers/1/name", "value": "b" },
            ])
        );
    }

    #[test]
    fn an_object_of_another_shape_stays_as_it_is() {
        let mut draft = Draft::new(json!({ "spec": "x", "metadata": 1 }));
        draft.annotate("a", "1");
        draft.push("/spec/containers", json!(1));
        draft.push("/spec/containers/7/env", json!(1));
        assert_eq!(draft.into_operations(), Vec::<Value>::new());
    }
}
