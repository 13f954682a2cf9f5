//! `memory-http --bytes N [--listen H:P]`: a bare hyper server that answers every request with the same bytes from
//! memory: the peer of GetObject. Prints one line of JSON when it listens and runs until its standard input is
//! closed or it is killed.

use std::convert::Infallible;
use std::error::Error;
use std::io::Read;
use std::process::ExitCode;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const USAGE: &str = "usage: memory-http --bytes N [--listen HOST:PORT]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memory-http: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut listen, mut bytes) = ("127.0.0.1:0".to_owned(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        match (name.as_str(), arguments.next()) {
            ("--listen", Some(value)) => listen = value,
            ("--bytes", Some(value)) => bytes = Some(value.parse::<usize>()?),
            (other, _) => return Err(format!("what is {other}?").into()),
        }
    }
    let mut body = vec![0; bytes.ok_or("--bytes is missing")?];
    fastrand::Rng::with_seed(1).fill(&mut body);
    let body = Bytes::from(body);
    let runtime = tokio::runtime::Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind(&listen))?;
    let line = serde_json::json!({ "addr": listener.local_addr()?.to_string() });
    #[allow(clippy::print_stdout, reason = "the line is the program's answer to the script that started it")]
    {
        println!("{line}");
    }
    runtime.spawn(serve(listener, body));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    runtime.shutdown_background();
    Ok(())
}

async fn serve(listener: TcpListener, body: Bytes) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => panic!("memory-http: accept failed: {error}"),
        };
        let body = body.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |_: Request<Incoming>| {
                let body = body.clone();
                async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
            });
            // An error is a client that went away.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
