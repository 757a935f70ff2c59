//! The skeleton: finds the method that a call names, and answers what it can do.

use dxr::{Fault, Value};
use shared::{Stop, escaped};

use crate::marshal::{NO_SUCH_METHOD, WRONG_PARAMETERS};

/// More of a call or a result is not shown.
const SHOWN: usize = 60;

/// A method that may be called from elsewhere.
pub struct Method {
    pub name: &'static str,
    /// The type of the result, then those of the parameters; several, where some may be left out.
    pub signatures: &'static [&'static [&'static str]],
    pub help: &'static str,
}

/// An object whose methods are called.
pub trait Service: Sync {
    /// Only these are exported.
    fn methods(&self) -> Vec<&'static Method>;

    /// Runs one of them.
    ///
    /// # Errors
    /// The fault that the caller gets.
    fn run(&self, name: &str, params: &[Value], stop: &Stop) -> Result<Value, Fault>;
}

/// Introspection, as register_introspection_functions has it.
static INTROSPECTION: [Method; 3] = [
    Method { name: "system.listMethods", signatures: &[&["array"]], help: "the names of all methods" },
    Method { name: "system.methodHelp", signatures: &[&["string", "string"]], help: "what a method does" },
    Method { name: "system.methodSignature", signatures: &[&["array", "string"]], help: "its result and parameters" },
];

/// Step 5 of the lecture: calls the function.
///
/// # Errors
/// The fault that the caller gets.
pub fn dispatch(service: &dyn Service, name: &str, params: &[Value], stop: &Stop) -> Result<Value, Fault> {
    let methods: Vec<&Method> = service.methods().into_iter().chain(&INTROSPECTION).collect();
    let find = |name: &str| {
        let found = methods.iter().find(|method| method.name == name);
        found.ok_or_else(|| Fault::new(NO_SUCH_METHOD, format!("there is no method {name:.40}")))
    };
    let method = find(name)?;
    if !method.signatures.iter().any(|signature| signature.len() == params.len() + 1) {
        return Err(wrong(format!("{name} takes {} parameters, not {}", method.signatures[0].len() - 1, params.len())));
    }
    let strings = |texts: &[&str]| Value::Array(texts.iter().map(|text| Value::String((*text).into())).collect());
    match name {
        "system.listMethods" => Ok(strings(&methods.iter().map(|method| method.name).collect::<Vec<_>>())),
        "system.methodHelp" => Ok(Value::String(find(text(params, 0)?)?.help.into())),
        "system.methodSignature" => {
            let signatures = find(text(params, 0)?)?.signatures;
            Ok(Value::Array(signatures.iter().map(|signature| strings(signature)).collect()))
        }
        _ => service.run(name, params, stop),
    }
}

/// The fault for a parameter that does not fit.
pub fn wrong(what: String) -> Fault {
    Fault::new(WRONG_PARAMETERS, what)
}

/// The parameter at this place, a string.
pub fn text(params: &[Value], at: usize) -> Result<&str, Fault> {
    match params.get(at) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(wrong(format!("parameter {} is no string", at + 1))),
    }
}

/// The parameter at this place, an integer.
pub fn integer(params: &[Value], at: usize) -> Result<i64, Fault> {
    match params.get(at) {
        Some(Value::Integer(number)) => Ok((*number).into()),
        Some(Value::Long(number)) => Ok(*number),
        _ => Err(wrong(format!("parameter {} is no int", at + 1))),
    }
}

/// Values as a terminal can show them: `"Hello world!", 3`.
pub fn shown(values: &[Value]) -> String {
    let one = |value: &Value| match value {
        Value::Integer(number) => number.to_string(),
        Value::Long(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Double(number) => format!("{number:.2}"),
        Value::String(text) => {
            let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(at, _)| at); // a long text is cut below
            format!("\"{}\"", escaped(&text.as_bytes()[..end]))
        }
        Value::Base64(bytes) => format!("{} bytes", bytes.len()),
        Value::Array(values) => format!("[{}]", shown(values)),
        _ => "a value".into(),
    };
    let all = values.iter().take(SHOWN).map(one).collect::<Vec<_>>().join(", ");
    match all.chars().count() > SHOWN || values.len() > SHOWN {
        true => all.chars().take(SHOWN).collect::<String>() + "...",
        false => all,
    }
}
