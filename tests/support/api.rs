//! A client of the API under test, which holds every answer against the server's own document.

use serde_json::{Value, json};
use standin::io::http::Answer;

use super::worker::Worker;

pub struct Api {
    pub worker: Worker,
    pub document: Value,
}

/// What was answered.
#[derive(Debug)]
pub struct Said {
    pub status: u16,
    pub body: Value,
}

impl Api {
    pub async fn start(board: &str, options: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), board, options).await
    }

    pub async fn start_in(dir: tempfile::TempDir, board: &str, options: &[&str]) -> Self {
        let worker = {
            let arguments: Vec<&str> = [board].iter().chain(options).copied().collect();
            Worker::start_with(dir, &arguments, &[]).await
        };
        let document = worker.get("/v1/openapi.json").await.1;
        Self { worker, document: serde_json::from_str(&document).unwrap() }
    }

    pub async fn get(&self, path: &str) -> Said {
        self.ask("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Said {
        self.ask("POST", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Said {
        self.ask("DELETE", path, None).await
    }

    /// Asks in JSON, and holds the answer against the document.
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Said {
        let headers: &[_] = if body.is_some() { &[("content-type", "application/json")] } else { &[] };
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        self.send(method, path, headers, body).await
    }

    /// Sends anything, and holds the answer against the document. What is no JSON is a string.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Said {
        let (status, text) = self.worker.ask(method, path, headers, body).await;
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        self.check(method, path, status, &body);
        Said { status, body }
    }

    /// Opens a stream.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        let mut request = axum::http::Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.worker.server.send(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status.as_u16(), 200, "{path}");
        Stream { answer, text: String::new() }
    }

    fn check(&self, method: &str, path: &str, status: u16, body: &Value) {
        let Some((template, operations)) = self.path_of(path) else {
            assert_eq!((status, &body["error"]["code"]), (404, &json!("no-such-path")), "{method} {path}");
            return;
        };
        if method == "HEAD" {
            return; // a GET without its body
        }
        let method = method.to_lowercase();
        let Some(operation) = operations.get(&method) else {
            assert!(status == 405 || status == 404, "{method} {path} is answered and not in the document");
            return;
        };
        let mut described = &operation["responses"][status.to_string()];
        if let Some(reference) = described["$ref"].as_str() {
            described = self.document.pointer(reference.trim_start_matches('#')).unwrap();
        }
        assert!(described.is_object(), "{method} {template}: {status} is not in the document: {body}");
        let Some(schema) = described["content"]["application/json"].get("schema") else { return };
        if body.is_string() && described["content"].as_object().unwrap().len() > 1 {
            return; // the other type
        }
        let schema = json!({ "allOf": [schema], "components": self.document["components"] });
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(body).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{method} {path}: {body}");
    }

    /// The document's path that a request's path is one of.
    fn path_of(&self, path: &str) -> Option<(&String, &Value)> {
        let path = path.split('?').next().unwrap();
        let fits = |template: &str| {
            let (wanted, found): (Vec<_>, Vec<_>) =
                (template.split('/').collect(), path.split('/').collect());
            let rest = wanted.last() == Some(&"{name}");
            let length = if rest { found.len() >= wanted.len() } else { found.len() == wanted.len() };
            length
                && wanted.iter().zip(&found).all(|(wanted, found)| wanted.starts_with('{') || wanted == found)
        };
        self.document["paths"].as_object().unwrap().iter().find(|(template, _)| fits(template))
    }
}

impl Said {
    /// The word for an error.
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str, fault: &str) {
        assert_eq!((self.status, self.code()), (status, code), "{}", self.body);
        assert_eq!(self.body["error"]["fault"], fault, "{}", self.body);
        let message = self.body["error"]["message"].as_str().unwrap();
        assert!(!message.contains(['\n', '\r']), "{message}");
        assert!(!self.body.to_string().contains("/tmp"), "a path of the server is told: {}", self.body);
    }
}

/// An answer that does not end.
pub struct Stream {
    answer: Answer,
    pub text: String,
}

impl Stream {
    /// Reads on until this is seen; returns everything up to there and keeps the rest.
    pub async fn until(&mut self, wanted: &str) -> String {
        let deadline = super::secs(60);
        loop {
            if let Some(at) = self.text.find(wanted) {
                let rest = self.text.split_off(at + wanted.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let piece = deadline.bound(self.answer.next()).await;
            let piece = piece.unwrap_or_else(|_| panic!("{wanted:?} not seen in: {}", self.text));
            let piece =
                piece.unwrap().unwrap_or_else(|| panic!("{wanted:?} not seen to the end: {}", self.text));
            self.text.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    /// Whether it ends, whatever comes before.
    pub async fn ends(mut self) {
        while super::secs(60).bound(self.answer.next()).await.unwrap().unwrap().is_some() {}
    }
}
