//! What a text must look like, token by token.

use rawrz_text::TokenId;

/// Says which tokens may come next; grammars are kept outside of this crate.
pub trait Constraint: Send {
    /// A bit for each token of the vocabulary, the first token's being the lowest of the first word: set where it may come
    /// next. Tokens that end a generation count as others do.
    ///
    /// # Errors
    /// A text that says what is wrong; the generation fails with it.
    fn mask(&mut self) -> Result<&[u32], String>;

    /// Takes note of the token that came, and says whether the text is complete: that nothing may follow.
    ///
    /// # Errors
    /// As [`Constraint::mask`].
    fn accept(&mut self, id: TokenId) -> Result<bool, String>;
}
