//! `bare-http (--bytes N | --file PATH | --upstream H:P) [--listen H:P]`: hyper and nothing else, as a peer of our own
//! server. With `--bytes` it answers every request with the same bytes from memory, with `--file` with what a file holds:
//! the peers of GetObject. With `--upstream` it passes every request on and its answer back, and keeps nothing: what is
//! left, on the same cores, of a plain GET with a third process in between. Prints one line of JSON when it listens and runs
//! until its standard input is closed or it is killed.

use std::error::Error;
use std::io::Read;
use std::net::SocketAddr;
use std::process::ExitCode;

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{client, server};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::io::ReaderStream;

const USAGE: &str = "usage: bare-http (--bytes N | --file PATH | --upstream HOST:PORT) [--listen HOST:PORT]";
/// Bytes of a file that are read at a time: as many as our own server reads.
const FILE_PIECE_BYTES: usize = 512 << 10;

/// Where the answers come from.
#[derive(Clone)]
enum Answers {
    Memory(Bytes),
    File(String),
    Upstream(SocketAddr),
}

type Trouble = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare-http: {error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), Trouble> {
    let (mut listen, mut answers) = ("127.0.0.1:0".to_owned(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        match (name.as_str(), arguments.next()) {
            ("--listen", Some(value)) => listen = value,
            ("--bytes", Some(value)) => {
                let mut body = vec![0; value.parse()?];
                fastrand::Rng::with_seed(1).fill(&mut body);
                answers = Some(Answers::Memory(Bytes::from(body)));
            }
            ("--file", Some(value)) => answers = Some(Answers::File(value)),
            ("--upstream", Some(value)) => answers = Some(Answers::Upstream(value.parse()?)),
            (other, _) => return Err(format!("what is {other}?").into()),
        }
    }
    let answers = answers.ok_or("--bytes, --file or --upstream is missing")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind(&listen))?;
    let line = serde_json::json!({ "addr": listener.local_addr()?.to_string() });
    #[allow(clippy::print_stdout, reason = "the line is the program's answer to the script that started it")]
    {
        println!("{line}");
    }
    runtime.spawn(serve(listener, answers));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    runtime.shutdown_background();
    Ok(())
}

async fn serve(listener: TcpListener, answers: Answers) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => panic!("bare-http: accept failed: {error}"),
        };
        let answers = answers.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let service = service_fn(move |request| answer(answers.clone(), request));
            // An error is a client that went away.
            let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    answers: Answers,
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Trouble>>, Trouble> {
    match answers {
        Answers::Memory(body) => {
            Ok(Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync()))
        }
        Answers::File(path) => {
            let mut file = tokio::fs::File::open(path).await?;
            let len = file.metadata().await?.len();
            file.set_max_buf_size(FILE_PIECE_BYTES);
            let pieces = ReaderStream::with_capacity(file, FILE_PIECE_BYTES);
            let body = StreamBody::new(pieces.map_ok(Frame::data).map_err(Trouble::from)).boxed_unsync();
            Ok(Response::builder().header(http::header::CONTENT_LENGTH, len).body(body)?)
        }
        Answers::Upstream(upstream) => {
            let stream = TcpStream::connect(upstream).await?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let answer = sender.send_request(request).await?;
            Ok(answer.map(|body| body.map_err(Trouble::from).boxed_unsync()))
        }
    }
}
