//! Requests to end a job.

use wasm_bindgen::prelude::*;

use crate::event::CancelToken;

/// A [`CancelToken`] that JavaScript holds: of one job, which heeds it wherever it looks at its listener's answers.
#[wasm_bindgen(js_name = CancelToken)]
#[derive(Default)]
pub struct WebCancelToken(CancelToken);

#[wasm_bindgen(js_class = CancelToken)]
impl WebCancelToken {
    /// Creates a token that asks for nothing yet.
    #[wasm_bindgen(constructor)]
    pub fn new() -> WebCancelToken {
        WebCancelToken::default()
    }

    /// Asks to stop.
    pub fn stop(&self) {
        self.0.cancel();
    }

    /// Asks a training to end with the update under way, or its first.
    pub fn finish(&self) {
        self.0.finish();
    }
}

impl WebCancelToken {
    pub(super) fn token(&self) -> &CancelToken {
        &self.0
    }
}
