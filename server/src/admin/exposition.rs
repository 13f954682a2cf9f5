//! Prometheus' text format, written by hand into one string.
//!
//! What must hold: each family once, with its HELP and TYPE before its samples, counters named `_total`,
//! label values escaped. A test elsewhere reads the whole output back.

use std::fmt::{Display, Write};

/// What a family's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, from the start of the process.
    Counter,
    /// `_sum` and `_count` of observations.
    Summary,
}

/// The text under construction.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
    prefix: &'static str,
}

/// One metric with its samples.
pub(crate) struct Family<'a> {
    text: &'a mut String,
    name: String,
}

impl Exposition {
    /// An empty text whose names all begin with `prefix`.
    pub(crate) fn new(prefix: &'static str) -> Exposition {
        Exposition { text: String::with_capacity(16 << 10), prefix }
    }

    /// Opens a family; its samples follow.
    pub(crate) fn family(&mut self, kind: Kind, name: &str, help: &str) -> Family<'_> {
        debug_assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        let name = format!("{}{name}", self.prefix);
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Summary => "summary",
        };
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "# HELP {name} {}\n# TYPE {name} {kind}", escape(help));
        Family { text: &mut self.text, name }
    }

    /// A gauge without labels.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(Kind::Gauge, name, help).sample(&[], value);
    }

    /// A counter without labels.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(Kind::Counter, name, help).sample(&[], value);
    }

    /// A summary without quantiles.
    pub(crate) fn summary(&mut self, name: &str, help: &str, sum: f64, count: u64) {
        self.family(Kind::Summary, name, help).suffixed("_sum", &[], sum).suffixed("_count", &[], count);
    }

    /// The whole text.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// Adds a sample.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.suffixed("", labels, value)
    }

    fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{label}=\"{}\"", escape(value).replace('"', "\\\""));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
        self
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_help_and_type_before_its_samples() {
        let mut out = Exposition::new("forebay_");
        out.gauge("memory_bytes", "Bytes in use.", 12);
        out.family(Kind::Counter, "requests_total", "Requests.").sample(&[("api", "s3")], 1).sample(&[], 2);
        out.summary("fsync_seconds", "Syncs.", 0.5, 3);
        assert_eq!(
            out.into_text(),
            "# HELP forebay_memory_bytes Bytes in use.\n# TYPE forebay_memory_bytes gauge\nforebay_memory_bytes 12\n\
             # HELP forebay_requests_total Requests.\n# TYPE forebay_requests_total counter\n\
             forebay_requests_total{api=\"s3\"} 1\nforebay_requests_total 2\n\
             # HELP forebay_fsync_seconds Syncs.\n# TYPE forebay_fsync_seconds summary\n\
             forebay_fsync_seconds_sum 0.5\nforebay_fsync_seconds_count 3\n"
        );
    }

    #[test]
    fn label_values_are_escaped() {
        let mut out = Exposition::new("");
        out.family(Kind::Gauge, "up", "Up.").sample(&[("path", "a\"b\\c\nd"), ("x", "y")], 1);
        assert!(out.into_text().ends_with("up{path=\"a\\\"b\\\\c\\nd\",x=\"y\"} 1\n"));
    }
}
