//! The JSON Schema of a struct that mirrors a file, and what in a file does not fit it.
//!
//! Only [`super::Document`] calls this. Pure; nothing to clean up.

use std::ops::Range;

use schemars::JsonSchema;
use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{nearest, one_of};

/// The JSON Schema of the files that `T` mirrors. TOML has no null: an optional key is one that may be left out.
pub fn schema_of<T: JsonSchema>() -> Json {
    let mut schema = schemars::schema_for!(T).to_value();
    drop_null(&mut schema);
    schema
}

/// Takes `null` out of a schema: as a type, as an alternative and as a default, and empty defaults with it.
fn drop_null(schema: &mut Json) {
    match schema {
        Json::Object(object) => {
            if let Some(Json::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Json::Array(choices)) = object.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if let [Json::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    object.extend(only);
                }
            }
            let empty = |value: &Json| match value {
                Json::Null => true,
                Json::Array(items) => items.is_empty(),
                Json::Object(members) => members.is_empty(),
                _ => false,
            };
            if object.get("default").is_some_and(empty) {
                object.remove("default");
            }
            object.values_mut().for_each(drop_null);
        }
        Json::Array(items) => items.iter_mut().for_each(drop_null),
        _ => {}
    }
}

/// What does not fit the schema, before it is known on which line it stands.
pub(super) struct Misfit {
    pub(super) span: Range<usize>,
    pub(super) key: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// The root of a file less what does not fit the schema, and all that does not; `None` if nothing is left.
pub(super) fn fit<'t>(
    root: Spanned<DeValue<'t>>,
    schema: &Json,
) -> (Option<Spanned<DeValue<'t>>>, Vec<Misfit>) {
    let mut misfits = Vec::new();
    let fitting = Fit { root: schema, misfits: &mut misfits }.value(root, schema, "");
    (fitting, misfits)
}

/// Holds values against the part of JSON Schema that schemars writes for structs, maps, lists, enums of words,
/// strings with a pattern, integers and booleans.
struct Fit<'a> {
    root: &'a Json,
    misfits: &'a mut Vec<Misfit>,
}

impl Fit<'_> {
    /// The value, less what is inside it and does not fit; `None` if it does not fit itself.
    fn value<'t>(
        &mut self,
        value: Spanned<DeValue<'t>>,
        schema: &Json,
        key: &str,
    ) -> Option<Spanned<DeValue<'t>>> {
        let schema = self.resolve(schema);
        let span = value.span();
        let misfit = match (schema["type"].as_str(), value.into_inner()) {
            (Some("object"), DeValue::Table(table)) => {
                let table = self.table(table, &schema, key, &span);
                return Some(Spanned::new(span, DeValue::Table(table)));
            }
            (Some("array"), DeValue::Array(array)) => {
                let items = array.into_iter().enumerate();
                let fitting = items.filter_map(|(index, item)| {
                    self.value(item, &schema["items"], &format!("{key}[{index}]"))
                });
                return Some(Spanned::new(span, DeValue::Array(fitting.collect())));
            }
            (_, value) => match misfit(&value, &schema) {
                None => return Some(Spanned::new(span, value)),
                Some(misfit) => misfit,
            },
        };
        let (message, hint) = misfit;
        self.misfits.push(Misfit { span, key: key.to_owned(), message, hint });
        None
    }

    fn table<'t>(
        &mut self,
        table: DeTable<'t>,
        schema: &Json,
        key: &str,
        span: &Range<usize>,
    ) -> DeTable<'t> {
        let inner = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
        let none = serde_json::Map::new();
        let known = schema["properties"].as_object().unwrap_or(&none);
        let others = &schema["additionalProperties"];
        let words = || known.keys().map(String::as_str);
        // A required key that is only misspelt is complained about once, under the name that it was given.
        let meant = |wanted: &str| {
            let mut unknown =
                table.keys().map(Spanned::get_ref).filter(|name| !known.contains_key(name.as_ref()));
            unknown.any(|name| nearest(name, words()) == Some(wanted))
        };
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str);
        for name in required.filter(|name| !table.contains_key(*name) && !meant(name)) {
            let wanted = self.resolve(&known[name]);
            let message = format!("expected {}, found nothing", expected(&wanted));
            let help = known[name]["description"].as_str().or(wanted["description"].as_str());
            let hint = help.map(|help| format!("`{}` says: {}", inner(name), first_sentence(help)));
            self.misfits.push(Misfit { span: span.clone(), key: inner(name), message, hint });
        }
        let mut fitting = DeTable::new();
        for (name, value) in table {
            let dotted = inner(name.get_ref());
            match known.get(name.get_ref().as_ref()) {
                None if !others.is_object() => {
                    let hint = match nearest(name.get_ref(), words()) {
                        Some(near) => format!("did you mean `{}`?", inner(near)),
                        None => format!("here fits {}", one_of(words())),
                    };
                    let message = "no such key".to_owned();
                    self.misfits.push(Misfit { span: name.span(), key: dotted, message, hint: Some(hint) });
                }
                property => {
                    if let Some(value) = self.value(value, property.unwrap_or(others), &dotted) {
                        fitting.insert(name, value);
                    }
                }
            }
        }
        fitting
    }

    fn resolve(&self, schema: &Json) -> Json {
        match schema["$ref"].as_str().and_then(|name| name.strip_prefix("#")) {
            Some(pointer) => self.root.pointer(pointer).cloned().unwrap_or_default(),
            None => schema.clone(),
        }
    }
}

/// What is wrong with a single value, and perhaps the fix; `None` if it fits.
fn misfit(value: &DeValue<'_>, schema: &Json) -> Option<(String, Option<String>)> {
    let found = describe(value);
    let unfit = |wanted: String| Some((format!("expected {wanted}, found {found}"), None));
    match (schema["type"].as_str(), value) {
        (Some("boolean"), DeValue::Boolean(_)) => None,
        (Some("integer"), DeValue::Integer(number)) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok();
            let least = schema["minimum"].as_i64().unwrap_or(i64::MIN);
            let most = schema["maximum"].as_i64().unwrap_or(i64::MAX);
            let fits = number.is_some_and(|number| (least..=most).contains(&number));
            if fits { None } else { unfit(format!("a number within {least}..={most}")) }
        }
        (_, DeValue::String(text)) if words_of(schema).next().is_some() => {
            if words_of(schema).any(|word| word == text) {
                return None;
            }
            let hint = nearest(text, words_of(schema)).map(|near| format!("did you mean `{near}`?"));
            Some((format!("expected {}, found {found}", expected(schema)), hint))
        }
        (Some("string"), DeValue::String(text)) => {
            let matches = |pattern| regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text));
            let fits = schema["pattern"].as_str().is_none_or(matches);
            if fits { None } else { unfit(expected(schema)) }
        }
        _ => unfit(expected(schema)),
    }
}

/// The words of an enum without values, with or without a description each.
fn words_of(schema: &Json) -> impl Iterator<Item = &str> {
    let described =
        schema["oneOf"].as_array().into_iter().flatten().filter_map(|choice| choice["const"].as_str());
    let plain = schema["oneOf"].as_array().into_iter().flatten().chain(std::iter::once(schema));
    let plain =
        plain.flat_map(|choice| choice["enum"].as_array().into_iter().flatten()).filter_map(Json::as_str);
    described.chain(plain)
}

/// What a schema wants, in words; a title that begins with an article is such words already.
fn expected(schema: &Json) -> String {
    if words_of(schema).next().is_some() {
        return one_of(words_of(schema));
    }
    match (schema["title"].as_str(), schema["type"].as_str()) {
        (Some(title), Some("string")) => title.to_owned(),
        (_, Some("object")) => "a table".to_owned(),
        (_, Some("array")) => "a list".to_owned(),
        (_, Some("integer")) => "a whole number".to_owned(),
        (_, Some("boolean")) => "`true` or `false`".to_owned(),
        _ => "a string".to_owned(),
    }
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("`{text}`"),
        DeValue::Integer(number) => format!("the number `{number}`"),
        DeValue::Float(number) => format!("the number `{number}`"),
        DeValue::Boolean(truth) => format!("`{truth}`"),
        DeValue::Datetime(date) => format!("the date `{date}`"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn first_sentence(text: &str) -> String {
    let line: String = text.split("\n\n").next().unwrap_or(text).replace('\n', " ");
    line.split_once(". ").map_or(line.as_str(), |(first, _)| first).trim_end_matches('.').to_owned()
}
