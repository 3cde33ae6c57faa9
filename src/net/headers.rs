//! Taking fields out of a header map without moving the others.

use http::HeaderMap;
use http::HeaderName;

/// Removes every field whose name is `unwanted`; the others keep their order.
///
/// `HeaderMap::remove` puts the last field into the gap. Where that would show, the map is built anew; fields at the
/// end, where clients like to write `Connection`, are simply removed. Costs one pass over the names when there is
/// nothing to remove.
pub fn remove_in_order(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let (mut n_unwanted, mut is_tail) = (0, true);
    for name in headers.keys() {
        if unwanted(name) {
            n_unwanted += 1;
        } else if n_unwanted > 0 {
            is_tail = false;
        }
    }
    if n_unwanted == 0 {
        return;
    }
    if is_tail {
        for _ in 0..n_unwanted {
            if let Some(name) = headers.keys().last().cloned() {
                headers.remove(name);
            }
        }
        return;
    }
    let mut kept = HeaderMap::with_capacity(headers.keys_len());
    // Values after the first of a name come without it.
    let mut current: Option<HeaderName> = None;
    for (name, value) in std::mem::take(headers) {
        if let Some(name) = name {
            current = (!unwanted(&name)).then_some(name);
        }
        if let Some(name) = &current {
            kept.append(name.clone(), value);
        }
    }
    *headers = kept;
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(names: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (index, name) in names.iter().enumerate() {
            headers.append(HeaderName::from_static(name), HeaderValue::from(index));
        }
        headers
    }

    #[test]
    fn what_stays_stays_in_order() {
        for (before, expected, why) in [
            (&[][..], &[][..], "nothing there"),
            (&["a", "b"], &["a=0", "b=1"], "nothing to remove"),
            (&["x"], &[], "nothing left"),
            (&["x", "a", "b", "c"], &["a=1", "b=2", "c=3"], "the first"),
            (
                &["a", "x", "b", "c", "d"],
                &["a=0", "b=2", "c=3", "d=4"],
                "one in the middle",
            ),
            (&["a", "b", "x"], &["a=0", "b=1"], "the last"),
            (&["a", "x", "y"], &["a=0"], "the last two"),
            (
                &["a", "x", "b", "y"],
                &["a=0", "b=2"],
                "the last and another",
            ),
            (
                &["a", "x", "b", "b", "x", "c"],
                &["a=0", "b=2", "b=3", "c=5"],
                "several values",
            ),
        ] {
            let mut headers = map(before);
            remove_in_order(&mut headers, |name| name == "x" || name == "y");
            let after: Vec<String> = headers
                .iter()
                .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
                .collect();
            assert_eq!(after, expected, "{why}");
        }
    }
}
