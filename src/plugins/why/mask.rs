//! A payload without what it says: its keys, types and lengths stay, every value goes.

use bytes::Bytes;
use serde_json::{Map, Value as Json};

use crate::kernel::format;
use crate::kernel::message::{ChannelName, Media, Message, Publication};

/// Of a list or an object so much is shown.
pub const ITEMS: usize = 50;
pub const DEPTH: usize = 16;

/// The view of an operator who has not asked to see more.
pub struct Masked;

impl format::View for Masked {
    fn name(&self) -> &str {
        "masked"
    }

    fn render(&self, _: &ChannelName, publication: &Publication) -> Option<Message> {
        let message = &publication.message;
        let bytes = |json: Json| Bytes::from(json.to_string());
        Some(Message {
            payload: bytes(payload(message)),
            media: Media::Json,
            meta: message.meta.as_ref().map(|meta| bytes(text(Media::Json, meta))),
            ..message.clone()
        })
    }
}

pub fn payload(message: &Message) -> Json {
    text(message.media, &message.payload)
}

fn text(media: Media, bytes: &[u8]) -> Json {
    let kind = match media {
        Media::Json => match serde_json::from_slice(bytes) {
            Ok(json) => return value(&json, DEPTH),
            Err(_) => "json",
        },
        Media::Text => "text",
        Media::Binary => "binary",
    };
    format!("<{kind} of {} bytes>", bytes.len()).into()
}

pub fn value(json: &Json, depth: usize) -> Json {
    match json {
        Json::Null => Json::Null,
        Json::Bool(_) => "<boolean>".into(),
        Json::Number(_) => "<number>".into(),
        Json::String(text) => format!("<string of {}>", text.chars().count()).into(),
        Json::Array(items) if depth == 0 || items.len() > ITEMS => format!("<list of {}>", items.len()).into(),
        Json::Object(fields) if depth == 0 || fields.len() > ITEMS => format!("<object of {}>", fields.len()).into(),
        Json::Array(items) => items.iter().map(|item| value(item, depth - 1)).collect::<Vec<_>>().into(),
        Json::Object(fields) => {
            fields.iter().map(|(name, field)| (name.clone(), value(field, depth - 1))).collect::<Map<_, _>>().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn masked(media: Media, payload: &str) -> Json {
        let message = Message { payload: Bytes::from(payload.to_owned()), media, ..Message::default() };
        super::payload(&message)
    }

    #[test]
    fn keys_types_and_lengths_stay_and_no_value_does() {
        let payload = r#"{"name":"Müller","paid":true,"sum":12.5,"none":null,"list":[1,"ab",{"k":"v"}]}"#;
        let expected = json!({"name": "<string of 6>", "paid": "<boolean>", "sum": "<number>", "none": null,
            "list": ["<number>", "<string of 2>", {"k": "<string of 1>"}]});
        assert_eq!(masked(Media::Json, payload), expected);
        assert_eq!(masked(Media::Text, "secret words"), json!("<text of 12 bytes>"));
        assert_eq!(masked(Media::Binary, "xyz"), json!("<binary of 3 bytes>"));
    }

    #[test]
    fn what_is_long_or_deep_is_counted() {
        assert_eq!(masked(Media::Json, &json!(vec![0; 51]).to_string()), json!("<list of 51>"));
        let deep = "[".repeat(20) + &"]".repeat(20);
        assert!(masked(Media::Json, &deep).to_string().contains("<list of 1>"));
        let too_deep = "[".repeat(1000) + &"]".repeat(1000);
        assert_eq!(masked(Media::Json, &too_deep), json!("<json of 2000 bytes>"));
    }
}
