//! `origin-sim --listen H:P [--bucket NAME]… [--line-mib N --latency-ms N]`: the simulated origin for scripts, on a
//! line of so many MiB/s if they want one. Prints one line of JSON when it listens and runs until its standard input is
//! closed or it is killed.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use forebay_integration::origin_sim::line::Line;
use forebay_integration::origin_sim::{ACCESS_KEY_ID, OriginSim, REGION, SECRET_ACCESS_KEY};

fn main() -> ExitCode {
    let mut listen = "127.0.0.1:0".to_owned();
    let mut buckets = Vec::new();
    let (mut line_mib, mut latency_ms) = (None::<u32>, 0);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        match (name.as_str(), arguments.next()) {
            ("--listen", Some(value)) => listen = value,
            ("--bucket", Some(value)) => buckets.push(value),
            ("--line-mib", Some(value)) if value.parse().is_ok_and(|mib: u32| mib > 0) => {
                line_mib = value.parse().ok();
            }
            ("--latency-ms", Some(value)) if value.parse::<u64>().is_ok() => {
                latency_ms = value.parse().unwrap_or(0);
            }
            _ => return usage(),
        }
    }
    let names: Vec<&str> = buckets.iter().map(String::as_str).collect();
    let origin = match OriginSim::start_on(&listen, &names) {
        Ok(origin) => origin,
        Err(error) => {
            eprintln!("origin-sim: cannot listen on {listen}: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(mib) = line_mib.map(f64::from) {
        origin.set_line(Line::new(mib * f64::from(1 << 20), Duration::from_millis(latency_ms)));
    }
    let line = serde_json::json!({
        "endpoint": origin.endpoint(),
        "region": REGION,
        "access_key_id": ACCESS_KEY_ID,
        "secret_access_key": SECRET_ACCESS_KEY,
    });
    #[allow(clippy::print_stdout, reason = "the line is the program's answer to the script that started it")]
    {
        println!("{line}");
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: origin-sim [--listen HOST:PORT] [--bucket NAME]... [--line-mib MIB_PER_SECOND [--latency-ms MS]]"
    );
    ExitCode::from(2)
}
