//! Marshalling: values to XML and back, by the library dxr; and what it must not be asked to read.

use anyhow::{Result, bail, ensure};
use dxr::{Fault, FaultResponse, MethodCall, MethodResponse, Value};
use quick_xml::{Reader, events::Event};

/// The codes of faults on which implementations of XML-RPC agreed.
pub const NOT_WELL_FORMED: i32 = -32_700;
pub const NO_SUCH_METHOD: i32 = -32_601;
pub const WRONG_PARAMETERS: i32 = -32_602;
pub const INTERNAL: i32 = -32_603;
/// Ours.
pub const NOT_FOUND: i32 = 2;
/// Elements inside one another. The library calls itself for each: too many would use up the stack, and end the process.
const DEPTH_LIMIT: usize = 64;

/// A call as it travels.
pub fn call_to_xml(name: &str, params: Vec<Value>) -> Result<String> {
    let call = MethodCall { name: name.into(), params };
    Ok(format!("<?xml version='1.0'?>\n{}", call.to_xml()?))
}

/// The call that this text is.
pub fn call_from_xml(bytes: &[u8]) -> Result<(String, Vec<Value>), Fault> {
    let read = || {
        let xml = str::from_utf8(bytes).map_err(|_| anyhow::anyhow!("it is not UTF-8"))?;
        check_depth(xml)?;
        // The library's error is the whole text again.
        MethodCall::from_xml(xml).map_err(|_| anyhow::anyhow!("it is no call, or a number in it is too large"))
    };
    match read() {
        Ok(call) => Ok((call.name.trim().into(), call.params)),
        Err(error) => Err(Fault::new(NOT_WELL_FORMED, format!("parse error: {error}"))),
    }
}

/// A result or a fault as it travels.
pub fn answer_to_xml(result: &Result<Value, Fault>) -> String {
    let xml = match result {
        Ok(value) => MethodResponse { value: value.clone() }.to_xml(),
        Err(fault) => FaultResponse { fault: fault.clone() }.to_xml(),
    };
    let cannot = |error| {
        let fault = Fault::new(INTERNAL, format!("the result cannot be marshalled: {error}"));
        FaultResponse { fault }.to_xml().unwrap_or_default()
    };
    format!("<?xml version='1.0'?>\n{}", xml.unwrap_or_else(cannot))
}

/// The result or the fault that this text is.
pub fn answer_from_xml(bytes: &[u8]) -> Result<Result<Value, Fault>> {
    let Ok(xml) = str::from_utf8(bytes) else { bail!("the answer is not UTF-8") };
    check_depth(xml)?;
    if let Ok(answer) = FaultResponse::from_xml(xml) {
        return Ok(Err(answer.fault));
    }
    match MethodResponse::from_xml(xml) {
        Ok(answer) => Ok(Ok(answer.value)),
        Err(_) => bail!("the answer is no XML-RPC answer"),
    }
}

/// Walks through the elements with the tokenizer that the library uses, without calling itself.
fn check_depth(xml: &str) -> Result<()> {
    let (mut reader, mut depth) = (Reader::from_str(xml), 0_usize);
    loop {
        match reader.read_event() {
            Ok(Event::Start(_)) => depth += 1,
            Ok(Event::End(_)) => depth = depth.saturating_sub(1),
            Ok(Event::DocType(_)) => bail!("it has a document type"),
            Ok(Event::Eof) => return Ok(()),
            Ok(_) => {}
            Err(_) => bail!("it is not well-formed XML"),
        }
        ensure!(depth <= DEPTH_LIMIT, "more than {DEPTH_LIMIT} elements inside one another");
    }
}

/// The text of a message. XML 1.0 has no place for most control characters, and a reader may change the end of a line
/// with a carriage return: such a text, and what is no text, travels as base64.
pub fn text_value(text: &[u8]) -> Value {
    let fits = |c: char| matches!(c, '\t' | '\n' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    match str::from_utf8(text) {
        Ok(text) if text.chars().all(fits) => Value::String(text.into()),
        _ => Value::Base64(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_call_of_the_lectures_client_is_read() {
        let call = "<?xml version='1.0'?>\n<methodCall>\n<methodName>last</methodName>\n<params>\n<param>\n\
                    <value><int>0</int></value>\n</param>\n</params>\n</methodCall>\n";
        assert_eq!(call_from_xml(call.as_bytes()).unwrap(), ("last".into(), vec![Value::Integer(0)]));
        let call = "<methodCall><methodName>system.listMethods</methodName><params/></methodCall>";
        assert_eq!(call_from_xml(call.as_bytes()).unwrap(), ("system.listMethods".into(), vec![]));
    }

    #[test]
    fn a_number_beyond_32_bits_is_no_int() {
        let call = |kind: &str| {
            let value = format!("<value><{kind}>4325204352</{kind}></value>");
            format!("<methodCall><methodName>get</methodName><params><param>{value}</param></params></methodCall>")
        };
        assert_eq!(call_from_xml(call("int").as_bytes()).unwrap_err().code(), NOT_WELL_FORMED);
        assert_eq!(call_from_xml(call("i8").as_bytes()).unwrap().1, [Value::Long(4_325_204_352)]);
    }

    #[test]
    fn a_bomb_of_nested_arrays_is_refused_however_it_is_wrapped() {
        let nested = |open: &str, close: &str, depth: usize| {
            let value = format!("{}{}", open.repeat(depth), close.repeat(depth));
            format!("<methodCall><methodName>get</methodName><params><param>{value}</param></params></methodCall>")
        };
        for (open, close) in [
            ("<value><array><data>", "</data></array></value>"),
            ("<value><array><data><!--</data></array></value>-->", "</data></array></value>"),
            ("<value><array a='</array>'><data><![CDATA[</data>]]>", "</data></array></value>"),
            ("<value><struct><member><name>a</name>", "</member></struct></value>"),
            ("<value><array><data>", ""),
        ] {
            let fault = call_from_xml(nested(open, close, 100_000).as_bytes()).unwrap_err();
            assert_eq!(fault.code(), NOT_WELL_FORMED, "{open}");
        }
        let few = nested("<value><array><data>", "</data></array></value>", 10);
        assert!(call_from_xml(few.as_bytes()).is_ok());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![any::<String>(), "[<>&'\" \t\n\\]]{0,20}".prop_map(String::from)];
        let leaf = prop_oneof![
            any::<i32>().prop_map(Value::Integer),
            any::<i64>().prop_map(Value::Long),
            any::<bool>().prop_map(Value::Boolean),
            text.prop_map(|text| text_value(text.as_bytes())),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| text_value(&bytes)),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Value::Array))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_marshalled_comes_back(values in prop::collection::vec(any_value(), 0..4)) {
            let xml = call_to_xml("publish", values.clone()).unwrap();
            prop_assert_eq!(call_from_xml(xml.as_bytes()).unwrap(), ("publish".into(), values.clone()));
            for value in values {
                let xml = answer_to_xml(&Ok(value.clone()));
                prop_assert_eq!(answer_from_xml(xml.as_bytes()).unwrap(), Ok(value));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
            let _ = (call_from_xml(&bytes), answer_from_xml(&bytes));
            let xml = call_to_xml("get", vec![Value::Array(vec![Value::Integer(7)])]).unwrap();
            let _ = call_from_xml(&xml.as_bytes()[..cut.index(xml.len())]);
        }
    }
}
