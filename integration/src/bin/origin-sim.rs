//! `origin-sim --listen H:P [--bucket NAME]…`: the simulated origin for scripts. Prints one line of JSON when
//! it listens and runs until its standard input is closed or it is killed.

use std::io::Read;
use std::process::ExitCode;

use forebay_integration::origin_sim::{ACCESS_KEY_ID, OriginSim, REGION, SECRET_ACCESS_KEY};

fn main() -> ExitCode {
    let mut listen = "127.0.0.1:0".to_owned();
    let mut buckets = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        match (name.as_str(), arguments.next()) {
            ("--listen", Some(value)) => listen = value,
            ("--bucket", Some(value)) => buckets.push(value),
            _ => {
                eprintln!("usage: origin-sim [--listen HOST:PORT] [--bucket NAME]...");
                return ExitCode::from(2);
            }
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
