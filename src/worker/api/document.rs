//! The endpoints as one list: the router and the OpenAPI document are both made of it, so neither knows more than
//! the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::routing::MethodRouter;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::Api;
use super::error::ErrorAnswer;
use super::extract::JSON;

/// One method of one path, and all that a client has to know of it.
pub struct Endpoint {
    method: Method,
    path: &'static str,
    summary: &'static str,
    handler: MethodRouter<Arc<Api>>,
    query: Option<SchemaOf>,
    request: Vec<Body>,
    answers: Vec<(u16, &'static str, Option<Body>)>,
    refusals: &'static [u16],
}

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

#[derive(Clone, Copy)]
enum Body {
    Json(SchemaOf),
    /// Bytes of this type.
    Other(&'static str),
}

impl Endpoint {
    /// A method of a path, in one sentence, and who answers it.
    pub fn new(
        method: Method,
        path: &'static str,
        summary: &'static str,
        handler: MethodRouter<Arc<Api>>,
    ) -> Self {
        let (request, answers) = (Vec::new(), Vec::new());
        Self { method, path, summary, handler, query: None, request, answers, refusals: &[] }
    }

    /// Its query.
    pub fn query<T: JsonSchema>(self) -> Self {
        Self { query: Some(|schemas| schemas.root_schema_for::<T>()), ..self }
    }

    /// It takes JSON of this type.
    pub fn takes<T: JsonSchema>(mut self) -> Self {
        self.request.push(Body::Json(SchemaGenerator::subschema_for::<T>));
        self
    }

    /// It takes bytes of this type.
    pub fn takes_bytes(mut self, kind: &'static str) -> Self {
        self.request.push(Body::Other(kind));
        self
    }

    /// It answers with JSON of this type.
    pub fn answers<T: JsonSchema>(mut self, status: u16, what: &'static str) -> Self {
        self.answers.push((status, what, Some(Body::Json(SchemaGenerator::subschema_for::<T>))));
        self
    }

    /// It answers with bytes of this type.
    pub fn answers_bytes(mut self, status: u16, kind: &'static str, what: &'static str) -> Self {
        self.answers.push((status, what, Some(Body::Other(kind))));
        self
    }

    /// It answers with nothing but the status.
    pub fn answers_nothing(mut self, status: u16, what: &'static str) -> Self {
        self.answers.push((status, what, None));
        self
    }

    /// How it refuses, beside the ways in which everything may be: 400, 401, 403, 500.
    pub fn refuses(self, refusals: &'static [u16]) -> Self {
        Self { refusals, ..self }
    }
}

/// The router of these endpoints.
pub fn router(endpoints: Vec<Endpoint>) -> Router<Arc<Api>> {
    endpoints
        .into_iter()
        .fold(Router::new(), |router, endpoint| router.route(endpoint.path, endpoint.handler))
}

/// The OpenAPI 3.1 document of these endpoints.
pub fn document(endpoints: &[Endpoint]) -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut schemas = settings.into_generator();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for endpoint in endpoints {
        // A rest of slashes is a parameter like any other in the document.
        let path = endpoint.path.replace("{*", "{");
        let method = endpoint.method.as_str().to_ascii_lowercase();
        let described = operation(endpoint, &path, &mut schemas);
        paths.entry(path).or_default().insert(method, described);
    }
    let error = schemas.subschema_for::<ErrorAnswer>();
    let error = json!({
        "description": "It was not done; `error` says why, whose fault it is, and how to mend it.",
        "content": { JSON: { "schema": error } },
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "standin",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Devices under test, driven over HTTP. Keys, paths and codes are added, never renamed.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "responses": { "Error": error },
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{}, { "token": [] }],
    })
}

fn operation(endpoint: &Endpoint, path: &str, schemas: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = parameters_of(path);
    if let Some(query) = endpoint.query {
        parameters.extend(query_parameters(query(schemas)));
    }
    let mut responses = Map::new();
    for (status, what, body) in &endpoint.answers {
        let mut answer = json!({ "description": what });
        if let Some(body) = body {
            answer["content"] = content(*body, schemas);
        }
        // Two types of body for one status stand side by side.
        match responses.get_mut(&status.to_string()) {
            Some(known) => {
                let more = answer["content"].as_object().cloned().unwrap_or_default();
                known["content"].as_object_mut().into_iter().for_each(|known| known.extend(more.clone()));
            }
            None => drop(responses.insert(status.to_string(), answer)),
        }
    }
    for status in [400, 401, 403, 500].iter().chain(endpoint.refusals) {
        responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "$ref": "#/components/responses/Error" }));
    }
    let mut described = json!({
        "summary": endpoint.summary,
        "operationId": operation_id(&endpoint.method, path),
        "parameters": parameters,
        "responses": responses,
    });
    if !endpoint.request.is_empty() {
        let mut kinds = Map::new();
        for body in &endpoint.request {
            kinds.extend(content(*body, schemas).as_object().cloned().unwrap_or_default());
        }
        described["requestBody"] = json!({ "required": true, "content": kinds });
    }
    described
}

/// As in `post_devices_id_power`.
fn operation_id(method: &Method, path: &str) -> String {
    let words = path.split(['/', '{', '}', '.', '-']).filter(|word| !word.is_empty() && *word != "v1");
    std::iter::once(method.as_str().to_ascii_lowercase().as_str()).chain(words).collect::<Vec<_>>().join("_")
}

fn parameters_of(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect()
}

fn query_parameters(query: Schema) -> Vec<Value> {
    let (required, properties) = (query.get("required"), query.get("properties"));
    let is_required = |name: &str| {
        required.and_then(Value::as_array).is_some_and(|all| all.iter().any(|required| required == name))
    };
    let described = |(name, schema): (&String, &Value)| {
        let about = schema.get("description").cloned().unwrap_or_default();
        json!({
            "name": name, "in": "query", "required": is_required(name), "schema": schema, "description": about,
        })
    };
    properties.and_then(Value::as_object).into_iter().flatten().map(described).collect()
}

fn content(body: Body, schemas: &mut SchemaGenerator) -> Value {
    match body {
        Body::Json(schema) => json!({ JSON: { "schema": schema(schemas) } }),
        Body::Other(kind) => json!({ kind: { "schema": { "type": "string" } } }),
    }
}
