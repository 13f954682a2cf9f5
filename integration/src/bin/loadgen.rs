//! `loadgen resp|s3|md5 …`: runs one load of [`forebay_integration::loadgen`] and prints one line of JSON.

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use forebay_integration::loadgen::{Report, md5, resp, s3};
use forebay_integration::s3_client;

const USAGE: &str = "usage:
  loadgen resp --addr H:P --op set|get [--clients 50] [--pipeline 1] [--keys 100000] [--bytes 64] [--seconds 5]
  loadgen resp --addr H:P --op set --fill true [--clients 16] [--pipeline 64] [--keys 100000] [--bytes 64]
  loadgen s3 --addr H:P --op put|get --access-key A --secret-key S [--bucket bench] [--prefix TEXT]
             [--first 0] [--keys 10000] [--clients 16] [--bytes 4096] [--seconds 5; 0: every key once]
  loadgen md5 [--seconds 2]";

fn main() -> ExitCode {
    match run() {
        Ok(report) => {
            let line = serde_json::to_string(&report).unwrap_or_default();
            #[allow(clippy::print_stdout, reason = "the report is what the program is for")]
            {
                println!("{line}");
            }
            if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("loadgen: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<Report, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let protocol = arguments.next().ok_or("a protocol is missing")?;
    let options = Options::parse(arguments)?;
    match protocol.as_str() {
        "resp" => Ok(resp_load(&options)?.run()?),
        "s3" => {
            let load = s3_load(&options)?;
            let endpoint = format!("http://{}", load.addr);
            let sdk =
                s3_client::client(&endpoint, options.needed("access-key")?, options.needed("secret-key")?);
            Ok(load.run(&sdk)?)
        }
        "md5" => Ok(md5::run(Duration::from_secs_f64(options.parsed("seconds", 2.0)?))),
        other => Err(format!("unknown protocol {other}").into()),
    }
}

fn resp_load(options: &Options) -> Result<resp::Load, Box<dyn Error>> {
    let fill = options.parsed("fill", false)?;
    Ok(resp::Load {
        addr: options.needed("addr")?.parse()?,
        kind: match options.needed("op")? {
            "set" => resp::Kind::Set,
            "get" => resp::Kind::Get,
            other => return Err(format!("unknown operation {other}").into()),
        },
        clients: options.parsed("clients", if fill { 16 } else { 50 })?,
        pipeline: options.parsed("pipeline", if fill { 64 } else { 1 })?,
        keys: options.parsed("keys", 100_000)?,
        value_bytes: options.parsed("bytes", 64)?,
        duration: Duration::from_secs_f64(options.parsed("seconds", 5.0)?),
        order: if fill { resp::Order::Sequential } else { resp::Order::Random },
    })
}

fn s3_load(options: &Options) -> Result<s3::Load, Box<dyn Error>> {
    Ok(s3::Load {
        addr: options.needed("addr")?.parse()?,
        kind: match options.needed("op")? {
            "put" => s3::Kind::Put,
            "get" => s3::Kind::Get,
            other => return Err(format!("unknown operation {other}").into()),
        },
        clients: options.parsed("clients", 16)?,
        bucket: options.parsed("bucket", "bench".to_owned())?,
        prefix: options.parsed("prefix", String::new())?,
        first: options.parsed("first", 0)?,
        keys: options.parsed("keys", 10_000)?,
        body_bytes: options.parsed("bytes", 4_096)?,
        duration: Duration::from_secs_f64(options.parsed("seconds", 5.0)?),
    })
}

struct Options(HashMap<String, String>);

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut map = HashMap::new();
        while let Some(name) = arguments.next() {
            let name = name.strip_prefix("--").ok_or_else(|| format!("unexpected {name}"))?.to_owned();
            let value = arguments.next().ok_or_else(|| format!("--{name} needs a value"))?;
            map.insert(name, value);
        }
        Ok(Self(map))
    }

    fn needed(&self, name: &str) -> Result<&str, Box<dyn Error>> {
        self.0.get(name).map(String::as_str).ok_or_else(|| format!("--{name} is missing").into())
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, Box<dyn Error>> {
        let Some(text) = self.0.get(name) else { return Ok(default) };
        text.parse().map_err(|_| format!("--{name} {text}: not a value of that kind").into())
    }
}
