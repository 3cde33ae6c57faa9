//! "Did you mean": the known word nearest to a misspelt one.

/// The nearest of `known`, when it is near enough to be what was meant. Ties go to the first.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lowered = plain(word);
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        let target = plain(candidate);
        let allowed = (lowered.len().max(target.len()) / 3).clamp(1, 4);
        let distance = distance(&lowered, &target);
        if distance <= allowed && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// `` `a`, `b` or `c` ``.
pub(crate) fn one_of(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => format!("`{one}`"),
        [head @ .., last] => {
            let head: Vec<String> = head.iter().map(|w| format!("`{w}`")).collect();
            format!("{} or `{last}`", head.join(", "))
        }
    }
}

/// Case and the choice of `-` or `_` are no difference worth counting.
fn plain(word: &str) -> Vec<char> {
    word.chars()
        .take(64)
        .map(|c| {
            if c == '-' {
                '_'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = above[j] + usize::from(x != y);
            let mut cost = replaced.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                cost = cost.min(before[j - 1] + 1);
            }
            row[j + 1] = cost;
        }
        before = above;
        above = row;
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_the_word_and_strangers_do_not() {
        let known = ["sampling", "shutdown", "reporters", "service", "app"];
        for (word, found) in [
            ("samplng", Some("sampling")),
            ("smapling", Some("sampling")),
            ("Reporters", Some("reporters")),
            ("reporter", Some("reporters")),
            ("ap", Some("app")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), found, "{word}");
        }
        assert_eq!(one_of(&["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
