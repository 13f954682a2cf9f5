//! The command line's side of the admin API: one request, one answer, bounded in size and time.

use std::time::Duration;

use clap::Args;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::{Exit, complain};
use crate::api::ErrorBody;
use crate::config::{Secret, admin_token, process_environment};

/// Largest answer that is taken, in bytes: a page of a thousand rows with the longest keys and reasons.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How long an answer may take that waits for nothing.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Which node is asked. The token, if it needs one, comes from FOREBAY_ADMIN_TOKEN or FOREBAY_ADMIN_TOKEN_FILE.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// The node's admin address; its token, if it needs one, comes from FOREBAY_ADMIN_TOKEN (or _FILE)
    #[arg(long, value_name = "URL", env = "FOREBAY_ADMIN", default_value = "http://127.0.0.1:19080")]
    admin: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The command line or environment makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The node was not reached.
    #[error("cannot reach the node at {url}: {cause}; is it running, and is this its admin address?")]
    Unreachable {
        /// Address asked.
        url: String,
        /// What happened.
        cause: String,
    },
    /// The node answered with an error.
    #[error("{message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
}

impl ClientError {
    /// Prints itself; returns the exit code.
    pub(super) fn report(&self) -> Exit {
        complain(self);
        match self {
            ClientError::Usage(_) => Exit::Usage,
            ClientError::Refused {
                status: StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::CONFLICT,
                ..
            } => Exit::Failed,
            ClientError::Refused { .. } | ClientError::Unreachable { .. } => Exit::Unavailable,
        }
    }
}

/// A node's admin server.
#[derive(Debug)]
pub(super) struct AdminClient {
    url: String,
    authority: String,
    token: Option<Secret>,
}

impl AdminArgs {
    /// The client for this node.
    pub(super) fn client(&self) -> Result<AdminClient, ClientError> {
        let token =
            admin_token(&process_environment).map_err(|error| ClientError::Usage(error.to_string()))?;
        AdminClient::new(&self.admin, token)
    }
}

impl AdminClient {
    fn new(url: &str, token: Option<Secret>) -> Result<AdminClient, ClientError> {
        let wrong = || {
            ClientError::Usage(format!(
                "\"{url}\" is not an admin address; write as in --admin http://127.0.0.1:19080"
            ))
        };
        let uri: http::Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if uri.scheme_str() != Some("http") || uri.path() != "/" || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or(80);
        let authority = format!("{}:{port}", authority.host());
        Ok(AdminClient { url: url.trim_end_matches('/').to_owned(), authority, token })
    }

    /// GET.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Vec::new(), ANSWER_TIMEOUT)
    }

    /// POST with a JSON body; waits up to `timeout` for the answer.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Usage(error.to_string()))?;
        self.ask(Method::POST, path, body, timeout)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let unreachable = |cause: String| ClientError::Unreachable { url: self.url.clone(), cause };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unreachable(error.to_string()))?;
        let exchange = async {
            match tokio::time::timeout(timeout, self.exchange(method, path, body)).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", timeout.as_secs())),
            }
        };
        let (status, body) = runtime.block_on(exchange).map_err(unreachable)?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| unreachable(format!("the answer is not one of a Forebay node: {error}")));
        }
        let message = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => body.error,
            Err(_) => format!("the node answered {status}"),
        };
        Err(ClientError::Refused { status, message })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            let mut value = header::HeaderValue::from_str(&format!("Bearer {}", token.reveal()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        // Makes the progress; its error is also the request's.
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?;
        Ok((status, body.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_addresses_are_http_and_without_a_path() {
        let authority = |url| AdminClient::new(url, None).map(|client| client.authority).ok();
        assert_eq!(authority("http://127.0.0.1:19080"), Some("127.0.0.1:19080".into()));
        assert_eq!(authority("http://node-1/"), Some("node-1:80".into()));
        assert_eq!(authority("http://[::1]:5"), Some("[::1]:5".into()));
        for url in
            ["", "127.0.0.1:19080", "https://node-1", "http://node-1/x", "http://a:b@node-1", "ftp://x"]
        {
            assert_eq!(authority(url), None, "{url}");
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_unreachable() {
        // Bound and never accepted from again: nothing listens after the drop.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = AdminClient::new(&format!("http://{address}"), None).unwrap();
        let error = client.get::<serde_json::Value>("/livez").unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
