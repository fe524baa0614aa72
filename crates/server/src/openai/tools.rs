//! `tools`, `tool_choice` and `parallel_tool_calls`, as both of OpenAI's APIs have them.

use crate::error::{ApiError, ApiResult};
use crate::tools::{ToolChoice, Tools};
use serde_json::{Value as Json, json};

/// What a request says of tools. Those of the Responses API have the function's members beside the type, which is taken
/// for the same.
pub(super) fn tools(
    offered: Option<Vec<Json>>,
    choice: Option<&Json>,
    parallel: Option<bool>,
) -> ApiResult<Tools> {
    let offered = offered.unwrap_or_default().into_iter().map(tool).collect::<ApiResult<Vec<_>>>()?;
    let bad = || ApiError::bad("tool_choice is none, auto, required, or a function with its name");
    let choice = match choice {
        None | Some(Json::Null) => ToolChoice::Auto,
        Some(Json::String(word)) => match word.as_str() {
            // What may not be called is not shown.
            "none" => return Ok(Tools::default()),
            "auto" => ToolChoice::Auto,
            "required" => ToolChoice::Required,
            _ => return Err(bad()),
        },
        Some(choice) => {
            let named = choice.get("function").unwrap_or(choice).get("name").and_then(Json::as_str);
            let is_function = choice.get("type").is_some_and(|kind| kind == "function");
            ToolChoice::Named(named.filter(|_| is_function).ok_or_else(bad)?.to_owned())
        }
    };
    Ok(Tools { offered, choice, one_call: parallel == Some(false) })
}

/// A tool with the function's members in a `function`.
fn tool(tool: Json) -> ApiResult<Json> {
    match tool.get("type").and_then(Json::as_str) {
        Some("function") | None => {}
        Some(other) => return Err(ApiError::bad(format!("tools of type {other} are not supported"))),
    }
    if tool.get("function").is_some() {
        return Ok(tool);
    }
    let mut function = json!({});
    for key in ["name", "description", "parameters"] {
        if let Some(value) = tool.get(key).filter(|value| !value.is_null()) {
            function[key] = value.clone();
        }
    }
    Ok(json!({"type": "function", "function": function}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_mean_the_same() {
        let nested = json!({"type": "function", "function": {"name": "f", "parameters": {}}});
        let flat =
            json!({"type": "function", "name": "f", "description": null, "parameters": {}, "strict": true});
        for (tool, choice) in [
            (&nested, json!({"type": "function", "function": {"name": "f"}})),
            (&flat, json!({"type": "function", "name": "f"})),
        ] {
            let tools = tools(Some(vec![tool.clone()]), Some(&choice), Some(false)).unwrap();
            assert_eq!((&tools.offered[..], tools.one_call), (&[nested.clone()][..], true));
            assert_eq!(tools.choice, ToolChoice::Named("f".to_owned()));
        }
    }

    #[test]
    fn choices_are_words_or_functions() {
        let read = |choice: Json| tools(Some(vec![json!({"name": "f"})]), Some(&choice), None);
        assert_eq!(read(json!("required")).unwrap().choice, ToolChoice::Required);
        assert_eq!(read(json!("auto")).unwrap().choice, ToolChoice::Auto);
        assert!(read(json!("none")).unwrap().offered.is_empty());
        for bad in [
            json!("any"),
            json!(1),
            json!({"type": "function"}),
            json!({"type": "web", "name": "f"}),
            json!({}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
        assert!(tools(Some(vec![json!({"type": "web_search"})]), None, None).is_err());
    }
}
