//! The tokenizer of a file.

use rawrz_gguf::Gguf;

use crate::TokenId;
use crate::bpe::{Bpe, byte_of_char};
use crate::error::{TokenizerError, shorten};
use crate::partition::{Fragment, Partition};
use crate::pretokenizer;
use crate::special::{self, SpecialTokens};
use crate::spm::{self, ESCAPED_SPACE};
use crate::stream::StreamDecoder;
use crate::unigram::Unigram;
use crate::vocab::{Attr, Vocab, byte_of_text, check_positions};
use crate::wordpiece::WordPiece;

/// Longest text that is tokenized at once, in bytes.
const MAX_TEXT_BYTES: usize = i32::MAX as usize;

/// How to turn a text into tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Adds the tokens that the vocabulary wants at the beginning and the end of a text.
    pub add_special: bool,
    /// Control tokens that are written out in the text count as such. Without it they are plain text; tokens that the
    /// vocabulary calls user-defined count either way.
    pub parse_special: bool,
}

/// A token that is cut out of a text before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddedToken {
    /// It is not part of the text: hidden when a text is decoded, and plain text where control tokens do not count.
    pub is_control: bool,
    /// It swallows whitespace before it.
    pub strips_left: bool,
    /// It swallows whitespace after it.
    pub strips_right: bool,
}

/// How a byte-pair vocabulary cuts and merges text, for libraries that have to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BpeRules {
    /// Each cuts the pieces of the one before into its matches and what lies between.
    pub regexes: &'static [&'static str],
    /// A piece that is a token is not merged from its parts.
    pub ignores_merges: bool,
}

impl BpeRules {
    /// Those of a pre-tokenizer (`tokenizer.ggml.pre`) that writes text in the GPT-2 alphabet of bytes; `None` for a name
    /// that is unknown, or whose rules regular expressions do not say.
    pub fn of(pre: &str) -> Option<BpeRules> {
        let regexes = pretokenizer::regexes::of(pre)?;
        Some(BpeRules { regexes, ignores_merges: pretokenizer::by_name(pre)?.ignore_merges })
    }
}

enum Model {
    Bpe(Bpe),
    Spm { add_space_prefix: bool },
    WordPiece(WordPiece),
    Unigram(Unigram),
}

/// How the text of a token becomes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PieceText {
    /// Characters of the GPT-2 alphabet, one per byte.
    WrittenBytes,
    /// Text in which U+2581 stands for a space.
    EscapedSpaces,
}

/// Turns text into the ids that llama.cpp's `llama_tokenize` gives, and ids into text.
///
/// Token texts and scores stay in the file's bytes, which the tokenizer keeps alive. It is immutable and shared freely
/// between threads.
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    partition: Partition,
    ids: SpecialTokens,
    eog: Box<[TokenId]>,
    add_bos: bool,
    add_eos: bool,
    piece_text: PieceText,
}

/// What the name of a tokenizer model implies.
struct Defaults {
    ids: SpecialTokens,
    add_bos: bool,
    add_eos: bool,
}

impl Tokenizer {
    /// Reads the vocabulary of a file, with or without tensors.
    ///
    /// # Errors
    /// When the file has no vocabulary, one that is not supported, or one that is damaged; the error names the key or
    /// the token.
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer, TokenizerError> {
        const MODEL: &str = "tokenizer.ggml.model";
        let name = gguf.get_str(MODEL)?.ok_or(TokenizerError::Missing { key: MODEL })?;
        let pre = match (name, gguf.get_str("tokenizer.ggml.pre")?) {
            ("gemma4", _) => &pretokenizer::GEMMA4,
            (_, None | Some("")) => &pretokenizer::DEFAULT,
            ("gpt2", Some(pre)) => pretokenizer::by_name(pre)
                .ok_or_else(|| TokenizerError::UnknownPreTokenizer { name: shorten(pre.as_bytes()) })?,
            // Only byte-pair vocabularies have pre-tokenizers.
            _ => &pretokenizer::DEFAULT,
        };
        let ids = |bos, eos, unk| SpecialTokens { bos, eos, unk, ..Default::default() };
        let defaults = match name {
            "gpt2" => {
                let bos = pre.has_default_bos.then_some(11);
                Defaults { ids: ids(bos, Some(11), None), add_bos: pre.add_bos, add_eos: false }
            }
            "gemma4" => Defaults { ids: ids(None, None, None), add_bos: true, add_eos: false },
            "llama" => Defaults { ids: ids(Some(1), Some(2), Some(0)), add_bos: true, add_eos: false },
            "bert" => {
                let ids = SpecialTokens {
                    sep: Some(102),
                    pad: Some(0),
                    mask: Some(103),
                    ..ids(Some(101), None, Some(100))
                };
                Defaults { ids, add_bos: true, add_eos: false }
            }
            "t5" => {
                let ids = SpecialTokens { pad: Some(0), ..ids(None, Some(1), Some(2)) };
                Defaults { ids, add_bos: false, add_eos: true }
            }
            _ => {
                return Err(TokenizerError::UnsupportedModel { name: shorten(name.as_bytes()) });
            }
        };

        let bpe = || {
            // Kimi K2 has files without merges.
            let is_kimi = gguf.get_str("tokenizer.ggml.pre")? == Some("kimi-k2");
            Bpe::new(gguf, pre, !is_kimi)
        };
        // Opening a model waits for both tables, and neither needs the other.
        let (vocab, bpe) = match name {
            "gpt2" | "gemma4" => side_by_side(|| Vocab::from_gguf(gguf), || bpe().map(Some)),
            _ => (Vocab::from_gguf(gguf), Ok(None)),
        };
        let (mut vocab, bpe) = (vocab?, bpe?);
        let mut ids = special::ids_from_keys(gguf, vocab.len(), defaults.ids)?;
        let model = match (bpe, name) {
            (Some(bpe), _) => Model::Bpe(bpe),
            (None, "bert") => Model::WordPiece(WordPiece::new(gguf, ids.unk)?),
            (None, "t5") => Model::Unigram(Unigram::new(gguf, &vocab, ids.unk)?),
            (None, _) => {
                vocab.check_scores()?;
                let given = gguf.get_bool("tokenizer.ggml.add_space_prefix")?;
                Model::Spm { add_space_prefix: given.unwrap_or(true) }
            }
        };
        let eog = special::find_by_text(&mut vocab, &mut ids).into_boxed_slice();
        let (partition, special) = Partition::new(&vocab);
        special::set_strips(&mut vocab, gguf, &special)?;

        let flag = |key| gguf.get_bool(key);
        let is_bert = matches!(model, Model::WordPiece(_));
        let force_bos = matches!(model, Model::Bpe(_)) && pre.force_bos;
        let add_bos = flag("tokenizer.ggml.add_bos_token")?.unwrap_or(defaults.add_bos);
        let add_eos = flag("tokenizer.ggml.add_eos_token")?.unwrap_or(defaults.add_eos);
        let tokenizer = Tokenizer {
            piece_text: match &model {
                Model::Bpe(_) if pre.escape_spaces => PieceText::EscapedSpaces,
                Model::Bpe(_) => PieceText::WrittenBytes,
                _ => PieceText::EscapedSpaces,
            },
            // BERT puts its own pair around every text, whatever the file says.
            add_bos: add_bos || force_bos || is_bert,
            add_eos: add_eos && !is_bert,
            vocab,
            model,
            partition,
            ids,
            eog,
        };
        let missing = |which| Err(TokenizerError::MissingSpecialToken { which });
        if tokenizer.add_bos && tokenizer.ids.bos.is_none() {
            return missing("beginning-of-sequence");
        }
        if tokenizer.add_eos && tokenizer.ids.eos.is_none() {
            return missing("end-of-sequence");
        }
        if is_bert && tokenizer.ids.sep.is_none() {
            return missing("separator");
        }
        Ok(tokenizer)
    }

    /// The tokens of a text.
    ///
    /// # Errors
    /// [`TokenizerError::NoByteToken`] when a character has no token and the vocabulary none for its bytes,
    /// [`TokenizerError::CharacterMap`] when the text runs into a damaged part of that table,
    /// [`TokenizerError::TextTooLong`] past 2 GiB.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<TokenId>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            let (len_bytes, limit_bytes) = (text.len(), MAX_TEXT_BYTES);
            return Err(TokenizerError::TextTooLong { len_bytes, limit_bytes });
        }
        let mut out = Vec::new();
        if options.add_special && self.add_bos {
            out.extend(self.ids.bos);
        }
        let mut after_special = true;
        for fragment in self.partition.split(&self.vocab, text, options.parse_special) {
            match fragment {
                Fragment::Token(id) => {
                    out.push(id);
                    after_special = true;
                }
                Fragment::Text { from, to } => {
                    let part = text.get(from..to).unwrap_or_default();
                    self.encode_part(part, after_special, &mut out)?;
                    after_special = false;
                }
            }
        }
        if options.add_special {
            match self.model {
                Model::WordPiece(_) => out.extend(self.ids.sep),
                _ if self.add_eos => out.extend(self.ids.eos),
                _ => {}
            }
        }
        Ok(out)
    }

    fn encode_part(
        &self,
        text: &str,
        after_special: bool,
        out: &mut Vec<TokenId>,
    ) -> Result<(), TokenizerError> {
        match &self.model {
            Model::Bpe(bpe) => bpe.encode(&self.vocab, text, out)?,
            Model::Spm { add_space_prefix } => {
                let mut escaped = String::with_capacity(text.len() + text.len() / 4 + 3);
                if *add_space_prefix && after_special {
                    escaped.push_str(ESCAPED_SPACE);
                }
                for (i, part) in text.split(' ').enumerate() {
                    if i > 0 {
                        escaped.push_str(ESCAPED_SPACE);
                    }
                    escaped.push_str(part);
                }
                check_positions(escaped.len())?;
                spm::encode(&self.vocab, &escaped, out)?;
            }
            Model::WordPiece(model) => model.encode(&self.vocab, text, out),
            Model::Unigram(model) => model.encode(&self.vocab, text, out)?,
        }
        Ok(())
    }

    /// The tokens of a prompt that a chat template has rendered: control tokens in it count, and the tokens that the
    /// vocabulary adds are not added where the text has them already, so there is never a second beginning of sequence.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        let options = EncodeOptions { add_special: true, parse_special: true };
        let mut ids = self.encode(text, options)?;
        if let (true, &[first, second, ..]) = (self.add_bos, &ids[..])
            && Some(first) == self.ids.bos
            && first == second
        {
            ids.remove(0);
        }
        if let (true, &[.., before, last]) = (self.add_eos, &ids[..])
            && Some(last) == self.ids.eos
            && before == last
        {
            ids.pop();
        }
        Ok(ids)
    }

    /// The text that tokens stand for. Bytes that are not UTF-8 become U+FFFD. The space that the vocabulary puts before
    /// a text is taken off again; control tokens are shown only when `special`.
    pub fn decode(&self, ids: &[TokenId], special: bool) -> String {
        let mut decoder = StreamDecoder::at_start(self, special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(decoder.push(id));
        }
        text.push_str(decoder.finish());
        text
    }

    /// Appends the bytes that a token stands for: none for a control or unknown token unless `special`, none for an id
    /// that the vocabulary does not have. The bytes of one token need not be whole characters.
    pub fn append_piece(&self, id: TokenId, special: bool, out: &mut Vec<u8>) {
        let attr = self.vocab.attr(id);
        let text = self.vocab.text(id);
        if attr.any(Attr::CONTROL | Attr::UNKNOWN) {
            if special {
                out.extend_from_slice(text);
            }
        } else if attr.any(Attr::USER_DEFINED) {
            out.extend_from_slice(text);
        } else if attr.any(Attr::NORMAL) {
            match self.piece_text {
                PieceText::EscapedSpaces => unescape_spaces(text, out),
                PieceText::WrittenBytes => read_bytes(text, out),
            }
        } else if attr.any(Attr::BYTE) {
            out.extend(byte_of_text(text));
        }
    }

    /// The text of a token as the vocabulary has it, or `None` for an id that it does not have.
    pub fn token_text(&self, id: TokenId) -> Option<&str> {
        if id as usize >= self.vocab.len() {
            return None;
        }
        std::str::from_utf8(self.vocab.text(id)).ok()
    }

    /// The token with this text in the vocabulary.
    pub fn find(&self, text: &str) -> Option<TokenId> {
        self.vocab.find(text.as_bytes())
    }

    /// The score of a token; 0 for vocabularies without scores.
    pub fn score(&self, id: TokenId) -> f32 {
        match (id as usize) < self.vocab.len() {
            true => self.vocab.score(id),
            false => 0.0,
        }
    }

    /// Number of tokens.
    pub fn vocab_len(&self) -> usize {
        self.vocab.len()
    }

    /// The ids of special tokens.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.ids
    }

    /// Beginning of sequence.
    pub fn bos(&self) -> Option<TokenId> {
        self.ids.bos
    }

    /// End of sequence.
    pub fn eos(&self) -> Option<TokenId> {
        self.ids.eos
    }

    /// Whether a generation ends with this token.
    pub fn is_eog(&self, id: TokenId) -> bool {
        self.eog.binary_search(&id).is_ok()
    }

    /// The tokens that end a generation, ascending.
    pub fn eog_ids(&self) -> &[TokenId] {
        &self.eog
    }

    /// Whether this is a control token, which is not part of the text.
    pub fn is_control(&self, id: TokenId) -> bool {
        self.vocab.attr(id).any(Attr::CONTROL)
    }

    /// How this token is cut out of texts; `None` for one that is not.
    pub fn added_token(&self, id: TokenId) -> Option<AddedToken> {
        let attr = self.vocab.attr(id);
        attr.any(Attr::CONTROL | Attr::USER_DEFINED | Attr::UNKNOWN).then(|| AddedToken {
            is_control: attr.any(Attr::CONTROL | Attr::UNKNOWN),
            strips_left: attr.any(Attr::LSTRIP),
            strips_right: attr.any(Attr::RSTRIP),
        })
    }

    /// Whether texts get a beginning-of-sequence token.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether texts get an end-of-sequence token.
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether a space is put before a text.
    pub fn adds_space(&self) -> bool {
        matches!(self.model, Model::Spm { add_space_prefix: true })
    }

    /// Heap bytes that the tokenizer holds, roughly. The file's bytes are not counted.
    pub fn heap_bytes(&self) -> usize {
        let model = match &self.model {
            Model::Bpe(bpe) => bpe.heap_bytes(),
            Model::Unigram(unigram) => unigram.heap_bytes(),
            Model::Spm { .. } | Model::WordPiece(_) => 0,
        };
        self.vocab.heap_bytes() + model + self.eog.len() * 4
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_len", &self.vocab_len())
            .field("special_tokens", &self.ids)
            .field("eog", &self.eog)
            .field("add_bos", &self.add_bos)
            .field("add_eos", &self.add_eos)
            .finish_non_exhaustive()
    }
}

/// What both give, the second on a thread of its own where the system has one.
fn side_by_side<A, B: Send>(a: impl FnOnce() -> A, b: impl Fn() -> B + Sync) -> (A, B) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rawrz-merges".into()).spawn_scoped(scope, &b);
        let a = a();
        let b = match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => b(),
        };
        (a, b)
    })
}

fn unescape_spaces(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        match rest.strip_prefix(ESCAPED_SPACE.as_bytes()) {
            Some(after) => {
                out.push(b' ');
                rest = after;
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
}

/// Characters outside the GPT-2 alphabet stand for themselves.
fn read_bytes(text: &[u8], out: &mut Vec<u8>) {
    for c in String::from_utf8_lossy(text).chars() {
        match byte_of_char(c) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}
