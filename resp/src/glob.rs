//! Redis's glob patterns (KEYS, SCAN MATCH, CONFIG GET), without its exponential cases.
//!
//! Only `*` matches a varying number of bytes, so on a mismatch it is enough to let the *last* star take
//! one byte more: time is at most pattern length times text length, and nothing recurses.

/// Whether `text` matches `pattern`: `*`, `?`, `[a-c]`, `[^a]`, and `\` before a byte to take it as it is.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_by(pattern, text, |byte| byte)
}

/// As [`matches()`], ASCII letters of both cases being alike.
pub(crate) fn matches_ignoring_case(pattern: &[u8], text: &[u8]) -> bool {
    matches_by(pattern, text, |byte| byte.to_ascii_lowercase())
}

/// The bytes that every match must begin with.
pub(crate) fn literal_prefix(pattern: &[u8]) -> Vec<u8> {
    let mut prefix = Vec::new();
    let mut rest = pattern;
    loop {
        match rest {
            [b'\\', byte, tail @ ..] => {
                prefix.push(*byte);
                rest = tail;
            }
            [] | [b'*' | b'?' | b'[' | b'\\', ..] => return prefix,
            [byte, tail @ ..] => {
                prefix.push(*byte);
                rest = tail;
            }
        }
    }
}

fn matches_by(pattern: &[u8], text: &[u8], fold: impl Fn(u8) -> u8 + Copy) -> bool {
    if text.is_empty() {
        // Redis never looks at the pattern then, and knows only the star alone.
        return pattern.is_empty() || pattern == b"*";
    }
    let (mut p, mut t) = (0, 0);
    // Where to go back to: behind the last star, with the text position it has eaten up to.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        if let Some(used) = match_one(&pattern[p..], text[t], fold) {
            p += used;
            t += 1;
            continue;
        }
        let Some((behind, eaten)) = star else { return false };
        star = Some((behind, eaten + 1));
        (p, t) = (behind, eaten + 1);
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Length of the one-byte element at the head of `pattern`, if it matches `byte`.
fn match_one(pattern: &[u8], byte: u8, fold: impl Fn(u8) -> u8 + Copy) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let (hit, used) = match_class(class, byte, fold);
            hit.then_some(1 + used)
        }
        [b'\\', escaped, ..] => (fold(*escaped) == fold(byte)).then_some(2),
        [literal, ..] => (fold(*literal) == fold(byte)).then_some(1),
    }
}

/// Judges the class behind its `[`; returns also its length with the `]`. One that is never closed ends
/// with the pattern, as in Redis.
fn match_class(class: &[u8], byte: u8, fold: impl Fn(u8) -> u8) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut hit = false;
    loop {
        match &class[at.min(class.len())..] {
            [] => return (hit != negated, class.len()),
            [b'\\', escaped, ..] => {
                hit |= *escaped == byte;
                at += 2;
            }
            [b']', ..] => return (hit != negated, at + 1),
            [from, b'-', to, ..] => {
                let (from, to) = (fold(*from), fold(*to));
                hit |= (from.min(to)..=from.max(to)).contains(&fold(byte));
                at += 3;
            }
            [literal, ..] => {
                hit |= fold(*literal) == fold(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "anything", true),
            ("*", "", true),
            ("**", "", false),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("[abc", "c", true),
            ("[\\]]", "]", true),
            ("[]a", "a", false),
            ("a\\", "a\\", true),
            ("*b", "ab", true),
            ("*ab*ab", "xabyab", true),
            ("a**", "a", true),
            ("a*b*c", "abbbcbc", true),
            ("a*b*c", "abbbcb", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} on {text}");
        }
        assert!(matches_ignoring_case(b"MaxC*", b"maxclients"));
        assert!(!matches(b"MaxC*", b"maxclients"));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = b"a*".repeat(60);
        let text = b"a".repeat(59).into_iter().chain(*b"b").cycle().take(20_000).collect::<Vec<_>>();
        assert!(matches(&pattern, &text));
        let never = [pattern.as_slice(), b"c"].concat();
        assert!(!matches(&never, &text));
    }

    /// Redis's two cases without a text, and for all others the definition.
    fn expected(pattern: &[u8], text: &[u8]) -> bool {
        if text.is_empty() { matches!(pattern, b"" | b"*") } else { model(pattern, text) }
    }

    /// The textbook definition, exponential and obviously right.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|skip| model(rest, &text[skip..])),
            _ => match text {
                [] => false,
                [byte, tail @ ..] => {
                    match_one(pattern, *byte, |b| b).is_some_and(|used| model(&pattern[used..], tail))
                }
            },
        }
    }

    proptest! {
        #[test]
        fn star_backtracking_agrees_with_the_definition(
            pattern in "[ab*?\\[\\]^\\\\-]{0,8}", text in "[ab\\]^-]{0,8}",
        ) {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(pattern, text), expected(pattern, text));
        }

        #[test]
        fn whatever_matches_begins_with_the_literal_prefix(
            pattern in "[ab*?\\\\]{0,6}", text in "[ab*?]{0,6}",
        ) {
            if matches(pattern.as_bytes(), text.as_bytes()) {
                prop_assert!(text.as_bytes().starts_with(&literal_prefix(pattern.as_bytes())));
            }
        }
    }
}
