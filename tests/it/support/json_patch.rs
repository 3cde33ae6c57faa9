//! JSON Patch (RFC 6902) applied, written for the tests alone: `add`, `replace` and `remove`.

use serde_json::Value;

/// The document after all operations.
///
/// # Errors
/// The first operation that does not fit the document.
pub(crate) fn apply(document: &Value, operations: &[Value]) -> Result<Value, String> {
    let mut document = document.clone();
    for operation in operations {
        one(&mut document, operation).ok_or_else(|| format!("does not fit: {operation}"))?;
    }
    Ok(document)
}

fn one(document: &mut Value, operation: &Value) -> Option<()> {
    let path = operation["path"].as_str()?;
    let (parent, key) = path.rsplit_once('/')?;
    let key = key.replace("~1", "/").replace("~0", "~");
    let value = operation.get("value").cloned();
    match (document.pointer_mut(parent)?, operation["op"].as_str()?) {
        (Value::Object(members), "add") => drop(members.insert(key, value?)),
        (Value::Object(members), "replace") => *members.get_mut(&key)? = value?,
        (Value::Object(members), "remove") => drop(members.remove(&key)?),
        (Value::Array(items), "add") if key == "-" => items.push(value?),
        (Value::Array(items), "add") => {
            let at = key.parse().ok().filter(|at| *at <= items.len())?;
            items.insert(at, value?);
        }
        (Value::Array(items), "replace") => {
            *items.get_mut(key.parse::<usize>().ok()?)? = value?;
        }
        (Value::Array(items), "remove") => {
            let at = key.parse().ok().filter(|at| *at < items.len())?;
            items.remove(at);
        }
        _ => return None,
    }
    Some(())
}

#[test]
fn operations_do_what_the_specification_says() {
    use serde_json::json;

    let document = json!({ "a": [1, 2], "b/c": { "~": 1 } });
    let patch = json!([
        { "op": "add", "path": "/a/1", "value": 9 },
        { "op": "add", "path": "/a/-", "value": 3 },
        { "op": "replace", "path": "/b~1c/~0", "value": 2 },
        { "op": "remove", "path": "/a/0" },
    ]);
    let changed = apply(&document, patch.as_array().unwrap()).unwrap();
    assert_eq!(changed, json!({ "a": [9, 2, 3], "b/c": { "~": 2 } }));
    for bad in [
        json!({ "op": "add", "path": "/x/y", "value": 1 }),
        json!({ "op": "add", "path": "/a/3", "value": 1 }),
        json!({ "op": "replace", "path": "/x", "value": 1 }),
        json!({ "op": "remove", "path": "/a/2" }),
        json!({ "op": "move", "path": "/a/0", "from": "/x" }),
    ] {
        assert!(
            apply(&document, std::slice::from_ref(&bad)).is_err(),
            "{bad}"
        );
    }
}
