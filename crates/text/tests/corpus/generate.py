#!/usr/bin/env python3
"""Writes lines.jsonl, the corpus that tokenizers are compared on: one JSON string per line, all distinct.

    python3 generate.py > lines.jsonl

Deterministic: the same Python code gives the same bytes, whatever the version of its Unicode tables.
"""

import json
import random
import sys

RNG = random.Random(20250601)

SENTENCES = """
The quick brown fox jumps over the lazy dog.
It's 5 o'clock; we'll, they've, I'd, you're, he's, can't, I'm: done!
Dr. Smith paid $1,234.56 on 2024-02-29 at 07:05:09 (UTC+02:00).
Voix ambiguë d'un cœur qui, au zéphyr, préfère les jattes de kiwis.
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.
El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío; añoraba a su querido cachorro.
Příliš žluťoučký kůň úpěl ďábelské ódy.
Pchnąć w tę łódź jeża lub ośm skrzyń fig.
Árvíztűrő tükörfúrógép.
Þjófstaðan hvílir á þjóðinni; kæmi ný öxi hér, ykist þjófum nú bæði víl og ádrepa.
Съешь же ещё этих мягких французских булок, да выпей чаю.
Жебракують філософи при ґанку церкви в Гадячі, ще й шатро їхнє п'яне знаємо.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.
Բել դղյակի ձախ ժամն օֆ ազգությանը ցպահանջ չճշտած վնաս էր եւ փառք։
ჩქარა გაიქცა მელა და ჯიქი.
דג סקרן שט בים מאוכזב ולפתע מצא חברה.
נִקּוּד: שָׁלוֹם עֲלֵיכֶם
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق.
بِسْمِ ٱللَّهِ ٱلرَّحْمَٰنِ ٱلرَّحِيمِ
یک جمله‌ی فارسی با نیم‌فاصله و ۱۲۳۴۵.
ایک اردو جملہ جس میں ہندسے ۹۸۷ ہیں۔
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले विष्णुवतार भगवान श्रीराम।
हिन्दी में १२३४५ और क्षेत्रज्ञ।
আমি কাঁচ খেতে পারি, তাতে আমার কোনো ক্ষতি হয় না। ০১২৩
ਮੈਂ ਗਲਾਸ ਖਾ ਸਕਦਾ ਹਾਂ ਅਤੇ ਇਸ ਨਾਲ ਮੈਨੂੰ ਕੋਈ ਤਕਲੀਫ ਨਹੀਂ।
હું કાચ ખાઇ શકુ છુ અને તેનાથી મને દર્દ નથી થતુ.
நான் கண்ணாடி சாப்பிடுவேன், அதனால் எனக்கு ஒரு கேடும் வராது. ௧௨௩
నేను గాజు తినగలను మరియు అలా చేసినా నాకు ఏమి ఇబ్బంది లేదు
ನನಗೆ ಹಾನಿ ಆಗದೆ, ನಾನು ಗಾಜನ್ನು ತಿನ್ನಬಹುದು
എനിക്ക് ഗ്ലാസ് തിന്നാം. അതെന്നെ വേദനിപ്പിക്കില്ല.
මට වීදුරු කෑමට හැකියි. එයින් මට කිසි හානියක් සිදු නොවේ.
ฉันกินกระจกได้ แต่มันไม่ทำให้ฉันเจ็บ ๑๒๓๔
ຂ້ອຍກິນແກ້ວໄດ້ໂດຍທີ່ມັນບໍ່ໄດ້ເຮັດໃຫ້ຂ້ອຍເຈັບ ໑໒໓
ကျွန်တော် ကျွန်မ မှန်စားနိုင်တယ်။ ၎င်းကြောင့် ထိခိုက်မှုမရှိပါ။ ၁၂၃
ខ្ញុំអាចញុំកញ្ចក់បាន ដោយគ្មានបញ្ហារ ១២៣
ཤེལ་སྒོ་ཟ་ནས་ང་ན་གི་མ་རེད། ༡༢༣
ᠪᠢ ᠰᠢᠯᠢ ᠢᠳᠡᠶᠦ ᠴᠢᠳᠠᠨᠠ ᠂ ᠨᠠᠳᠤᠷ ᠬᠣᠤᠷᠠᠳᠠᠢ ᠪᠢᠰᠢ
我能吞下玻璃而不伤身体。第１２３条，“引号”（括号）……
我能吞下玻璃而不傷身體，《書名》〈篇名〉「引用」『雙引』。
私はガラスを食べられます。それは私を傷つけません。ｶﾀｶﾅ１２３
いろはにほへと ちりぬるを わかよたれそ つねならむ うゐのおくやま けふこえて あさきゆめみし ゑひもせす
나는 유리를 먹을 수 있어요. 그래도 아프지 않아요. ㄱㄴㄷ ㅏㅑ
ㄅㄆㄇㄈ ㄉㄊㄋㄌ ㄚㄛㄜㄝ
የምግብ ማብሰያ ጠረጴዛ ፩፪፫።
ᎣᏍᏓ ᏙᏗᎶᎸᎢ ᎢᏳᏍᏗ
ᐊᓕᒍᖅ ᓂᕆᔭᕌᖓᒃᑯ ᓱᕋᙱᑦᑐᓐᓇᖅᑐᖓ
ⵜⴰⵎⴰⵣⵉⵖⵜ ⴷ ⵜⴰⵎⴰⵏⵜ
𐌼𐌰𐌲 𐌲𐌻𐌴𐍃 𐌹̈𐍄𐌰𐌽, 𐌽𐌹 𐌼𐌹𐍃 𐍅𐌿 𐌽𐌳𐌰𐌽 𐌱𐍂𐌹𐌲𐌲𐌹𐌸.
ᛖᚴ ᚷᛖᛏ ᛖᛏᛁ ᚧ ᚷᛚᛖᚱ ᛘᚾ ᚦᛖᛋᛋ ᚨᚧ ᚡᛖ ᚱᚧᚨ ᛋᚨᚱ
𝔗𝔥𝔢 𝒬𝓊𝒾𝒸𝓀 𝕭𝖗𝖔𝖜𝖓 𝟏𝟐𝟑 𝟘𝟙𝟚 ﬁ ﬂ ﬀ
Tôi có thể ăn thủy tinh mà không hại gì. Nguyễn Đình Chiểu
Mənim şüşəm; İstanbul'da ığdır; Iğdır'ın İI ıi ǅ ǈ ǋ ǲ
Kiɓisɛgo ŋwana; ẹ̀kọ́ Yorùbá ńkọ́? ɗan Adam ƙasa
Hawaiʻi, ʻōlelo, Oʻahu; Navajo Tʼáá áłtsó; ǃXóõ ǀxam ǂHoan
E = mc², ∑ᵢ xᵢ² ≤ ∞, ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β = ¬(¬α ∨ β), ∫₀^∞ e^(−x²) dx = √π⁄2
½ ⅓ ¼ ⅛ Ⅷ ⅻ ① ② ⑳ ㈠ ㊙ ㍿ ℃ № ™ © ® ‰ ‱ ℞
€100 £20 ¥3,000 ₹5 ₩7 ₽8 ₿0.001 ¢99 ¤ ﷼
← ↑ → ↓ ↔ ⇒ ⇔ ▲ ▼ ◆ ◇ ○ ● ★ ☆ ♠ ♥ ♦ ♣ ♪ ♯ ✓ ✗ ✔ ✘
┌─┬─┐ │ │ │ ├─┼─┤ └─┴─┘ ╔═╦═╗ ║ ║ ║ ╚═╩═╝ ░▒▓█ ▀▄
“Curly” ‘single’ „low‟ ‹angle› «guillemets» – en — em ― bar … ellipsis • bullet · middot
¿Qué? ¡Sí! ‽ ⁇ ⁈ ⁉ ‼ ※ † ‡ § ¶
"""

CODE = r"""
fn main() { let x: Vec<u32> = (0..10).map(|i| i * 2).collect(); println!("{x:?}"); }
impl<'a, T: 'static + ?Sized> Iterator for Foo<'a, T> where T: Clone { type Item = &'a T; }
int main(int argc, char **argv) { for (int i = 0; i < argc; ++i) printf("%s\n", argv[i]); return 0; }
#include <bits/stdc++.h> template<typename... Ts> auto f(Ts&&... ts) -> decltype((ts + ...)) { return (ts + ...); }
def f(x: int, *args, **kwargs) -> dict[str, list[int]]: return {**kwargs, "x": [x, *args]}
lambda x: x if x else -x  # comment with 'quotes' and "double"
const f = async (a, {b = 1, ...c}) => { await a?.b?.[c] ?? `${a}\n${b}`; };
SELECT u.id, COUNT(*) AS n FROM users u LEFT JOIN orders o ON o.uid = u.id WHERE u.name LIKE '%O''Brien%' GROUP BY 1 HAVING n >= 10;
public static void main(String[] args) throws IOException { System.out.println("\u00e9\t\"x\""); }
func (s *Server) Handle(w http.ResponseWriter, r *http.Request) error { defer r.Body.Close(); return nil }
let rec fact = function 0 | 1 -> 1 | n -> n * fact (n - 1) in Printf.printf "%d\n" (fact 10)
main :: IO () ; main = mapM_ (print . (^2)) [x | x <- [1..10], even x]
(defun fib (n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2)))))
$ curl -sSL -X POST -H 'Content-Type: application/json' -d '{"a":[1,2,{"b":null}]}' https://example.com/api/v1/x?y=z&w=%20#frag
grep -rEn --include='*.rs' '(unsafe|todo!)\(' . | awk -F: '{print $1}' | sort | uniq -c | sort -rn | head -n 20
<div class="a b" id='c' data-x="&lt;&amp;&gt;"><p>Hello, <b>world</b>!</p><br/><!-- comment --></div>
<?xml version="1.0" encoding="UTF-8"?><root xmlns:x="urn:y"><x:a b="c"/><![CDATA[ <raw> ]]></root>
{"name": "x", "values": [1, -2.5, 3e10, true, false, null], "nested": {"k": "v\n\t\u00e9"}}
key: value  # yaml
- [ ] task one **bold** _it_ `code` [link](https://example.com/a_b(c)) ![img](x.png) ~~strike~~ | a | b |
\begin{equation} \int_{-\infty}^{\infty} e^{-x^2}\,dx = \sqrt{\pi} \label{eq:1} \end{equation} % comment
@media (max-width: 600px) { .a > .b:not(.c)::before { content: "\201C"; color: #ff00aa80; margin: 0 -1px; } }
if [[ "$x" =~ ^[0-9]+$ && ! -e "${HOME}/.cfg" ]]; then echo "$((x << 2))" >&2; fi
x = y ^ z | ~w & 0xDEADBEEF % 0b1010_1010 << 3 >>> 2 ** 5 // 7 != 8 <= 9 <=> 10 === 11
std::unique_ptr<std::vector<std::pair<int, std::string>>> p{nullptr}; p->emplace_back(1, R"(raw)");
regex: ^(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9]+)*|"(?:\\[\x01-\x7f])*")@(?:[a-z0-9]+\.)+[a-z]{2,}$
C:\Users\name\AppData\Local\Temp\~tmp0001.tmp \\server\share$\dir /usr/local/lib/python3.12/site-packages/
diff --git a/x b/x @@ -1,4 +1,5 @@ -old +new ==== >>>>>>> HEAD <<<<<<< branch |||||||
0x1F600 0b101 0o777 1_000_000 1e-9 6.022e23 .5 5. 1.2.3.4 v1.2.3-rc.1+build.5 192.168.0.1:8080 ::1 fe80::1%eth0
camelCase PascalCase snake_case SCREAMING_CASE kebab-case dot.case HTTPServerXMLParser getURLFromID3v2Tag iPhone15ProMax
ThisIsAVeryLongIdentifierNameThatNobodyShouldEverUseInProductionCodeButSomebodyDoes_1234567890
user.name+tag@sub.example.co.uk mailto:a@b.c tel:+1-555-0100 https://例え.jp/パス?ク=エ#片 http://xn--r8jz45g.jp
"""

EMOJI = """
😀 😂 🤣 😊 😍 🤔 👍 👍🏽 👩‍💻 👨‍👩‍👧‍👦 👩🏾‍🚀 🏳️‍🌈 🏴‍☠️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇩🇪 🇺🇸 🇯🇵 🇩 🇩🇪🇺 ❤️ ❤ ❤️‍🔥 ☎️ ☎︎ 1️⃣ #️⃣ *️⃣ 🫠 🫨 🪿 👁️‍🗨️ 🧑🏻‍❤️‍💋‍🧑🏿 👯‍♀️ 🤷🏼‍♂️ ⌚ ⏰ ♻️ ⚠️ ✈️ 🀄 🃏 🅰️ 🈁
🎉 🎊 🎄 🚀 🛸 🐍 🦀 🐹 ☕ 🐘 🐳 🤖 👾 💩 🙈 🙉 🙊 💯 🔥 ✨ 💥 💢 💤 🕳️ 🗨️
""".split()

SCRIPT_CHARS = {
    "latin1": "àÁâÃäÅæÇèÉêËìÍîÏðÑòÓôÕöØùÚûÜýÞßÿªºµ",
    "latinext": "ĀāĂăĄąĆćĈĉĊċČčĎďĐđŁłŃńŇňŐőŒœŘřŚśŠšſƀƁƂǄǅǆǇǈǉǱǲǳȘșȚțɐɑɒʔʕʰʲːˈˌ",
    "greek": "αβγδεζηθικλμνξοπρςστυφχψωΆΈΉΊΌΎΏἀἁἂἃἄἅᾳῃῳϐϑϕϖϗ",
    "cyrillic": "абвгґдеєёжзиіїйклмнопрстуўфхцчшщъыьэюяѢѣѲѳѴѵҐҒғҖҗҚқ",
    "armenian": "աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆ՛՜՝՞֊",
    "hebrew": "אבגדהוזחטיכךלמםנןסעפףצץקרשתְֱֲֳִֵֶַָֹֻּֽ־ֿ׀ׁׂ׃",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهويءآأؤإئىةًٌٍَُِّْٰپچژگکیے٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹٪٫٬؟،؛",
    "syriac": "ܐܒܓܕܗܘܙܚܛܝܟܠܡܢܣܥܦܨܩܪܫܬ",
    "thaana": "ހށނރބޅކއވމފދތލގޏސޑޒޓޔޕޖޗަާިީުޫެޭޮޯ",
    "devanagari": "अआइईउऊऋएऐओऔकखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसह़ािीुूृेैोौ्ँंः०१२३४५६७८९।॥",
    "bengali": "অআইঈউঊঋএঐওঔকখগঘঙচছজঝঞটঠডঢণতথদধনপফবভমযরলশষসহািীুূৃেৈোৌ্ংঃঁ০১২৩৪৫৬৭৮৯",
    "tamil": "அஆஇஈஉஊஎஏஐஒஓஔகஙசஜஞடணதநனபமயரலளழவஷஸஹாிீுூெேைொோௌ்ஃ௦௧௨௩௪௫௬௭௮௯௰௱௲",
    "telugu": "అఆఇఈఉఊఋఎఏఐఒఓఔకఖగఘఙచఛజఝఞటఠడఢణతథదధనపఫబభమయరలవశషసహాిీుూృెేైొోౌ్౦౧౨౩౪౫౬౭౮౯",
    "thai": "กขคงจฉชซญฎฏฐฑฒณดตถทธนบปผฝพฟภมยรลวศษสหฬอฮะัาำิีึืุูเแโใไๅๆ็่้๊๋์๐๑๒๓๔๕๖๗๘๙฿",
    "lao": "ກຂຄງຈສຊຍດຕຖທນບປຜຝພຟມຢຣລວຫອຮະັາຳິີຶືຸູົຼເແໂໃໄໆ່້໊໋໌ໍ໐໑໒໓໔",
    "tibetan": "ཀཁགངཅཆཇཉཏཐདནཔཕབམཙཚཛཝཞཟའཡརལཤསཧཨིེོུྐྑྒ་།༎༠༡༢༣༪༫",
    "myanmar": "ကခဂဃငစဆဇဈဉညဋဌဍဎဏတထဒဓနပဖဗဘမယရလဝသဟဠအာိီုူေဲ့း္်ျြွှ၀၁၂၃၄၅၆၇၈၉၊။",
    "khmer": "កខគឃងចឆជឈញដឋឌឍណតថទធនបផពភមយរលវសហឡអាិីឹឺុូួើឿៀេែៃោៅំះៈ្៖ៗ០១២៣៤៥៦៧៨៩៛",
    "georgian": "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰႠႡႢᲐᲑᲒⴀⴁⴂ",
    "ethiopic": "ሀሁሂሃሄህሆለሉሊላሌልሎ፠፡።፣፤፥፦፧፨፩፪፫፬፭፲፻፼",
    "hangul": "가각간갇갈감갑값갓강개객갠갤갬뷁힣ㄱㄲㄳㄴㅏㅐㅑᄀ까ᅢᆨᆩꥠꥡ",
    "kana": "あぃいぅうぇえぉおかがきぎくぐアァイィウヴエォカガゕゖゝゞヽヾー゛゜ｱｲｳｴｵｶﾞﾊﾟ",
    "han": "一丁七万丈三上下不与丐丑专且丕世丘丙业丛东丝両龍龜龥鿿㐀㐁䶵豈更車𠀀𠀁𪛖𫜴𫝀𬺡𮯠𰀀丽",
    "yi": "ꀀꀁꀂꀃꀄꀅ꒐꒑꒒ꓐꓑꓒ",
    "cherokee": "ᎠᎡᎢᎣᎤᎥᏸᏹꭰꭱ",
    "symbols": "∀∂∃∅∆∇∈∉∋∏∑−∓∔∕∗∘∙√∝∞∟∠∡∢∣∤∥⊕⊖⊗⌀⌁⌂⎀⏎␀␁①②③⒈⒜Ⓐⓐ─━│┃■□▢▣☀☁☂✁✂➀➁⟀⟁⠀⠁⤀⤁⬀⬁〃〄々〆〇〈〉㈀㈁㉈㊀㋀㍘㎀㏀",
    "numbers": "²³¹¼½¾٠߀०০੦૦୦௦౦೦൦๐໐༠၀႐០᠐᥆᧐᪀᭐᮰᱀᱐⁰⁴₀₁⅐Ⅰⅰↀ①⓪❶〇〡㆒㈠㉑㊀㋀꘠꣐꤀꧐꩐０１９𐄇𐒠𝟎𝟘𝟬🄀𞥐",
    "punct": "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡§«¶·»¿‐‑‒–—―‖‗‘’‚‛“”„‟†‡•‣․‥…‧‰′″‴‵‸‹›※‼⁂⁇⁈⁉⁊、。〃《》「」『』【】〔〕〜〝〞〟！＂＃％＆＇（）＊，－．／：；？＠［＼］＿｛｝～",
    "marks": "̀́̂̃̄̅̆̇̈̉̊̋̌̍̎̏̐҈҉़्ְֱًٌٍัิ゙゚〪〫⃝⃞⃠︀︁️︎",
    "astral": "𐀀𐀁𐎀𐎁𐏀𐏑𐐀𐐨𐒰𐓘𐤀𐤠𐩠𐬀𑀀𑁒𑂀𒀀𒀁𓀀𓀁𖠀𖠁𖼀𛀀𝄞𝅘𝅥𝐀𝑎𝒜𝓐𝔄𝕬𝖠𝗔𝘈𝙰𞤀𞤢𞸀🀀🂡🄰🅰🆎🈀🌀🏻🐀💀🕀🙀🚀🛀🜀🝀🞀🟀🠀🤀🧀🩀🪀🫀𠮷𡈽",
    "unassigned": "\u0378\u0530\u05ff\u1c8a\u1d6a\u2fe0\ua7cb\ua7dc\uabfa\U00010d40\U00010d50\U00011b60\U00016d70\U0001ccf0\U0001e5f0\U0001fae9\U000323b0\U000e0080",
}

SPACES = "\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
INVISIBLE = "\u00ad\u034f\u061c\u115f\u1160\u17b4\u180b\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u206a\u206f\ufe00\ufe0f\ufeff\ufff9\ufffa\ufffb\ufffc\ufffd\U000e0001\U000e0020\U000e007f\U000e0100"
CONTROL = "".join(chr(i) for i in range(32)) + "\x7f\x80\x81\x8d\x8f\x90\x9d\x9f"
ODD = "\ue000\ue0a0\uf8ff\U000f0000\U0010fffd\ufdd0\ufdef\ufffe\uffff\U0001fffe\U0001ffff\U0010fffe\U0010ffff\ud7ff\ufffd"
SPECIALS = """<|im_start|> <|im_end|> <|endoftext|> <|end_of_text|> <|begin_of_text|> <|eot_id|> <|start_header_id|> <bos> <eos> <pad> <unk> <s> </s>
<start_of_turn> <end_of_turn> <mask> [CLS] [SEP] [MASK] [UNK] [PAD] [INST] [/INST] <<SYS>> <</SYS>> <|system|> <|user|> <|assistant|> <|end|> <|fim_prefix|>
<|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_call> </tool_call> <tool_response> <|object_ref_start|> <|vision_start|> <|box_end|>
<repo_name> <reponame> <file_sep> <filename> <gh_stars> <issue_start> <jupyter_code> <empty_output> <|tool_call|> <unused0> <unused98> <unused6241> <start_of_image>
<image_soft_token> [multimodal] <0x0A> <0x00> <0xFF> <table> </table> <td> <th> <ul> <li> <h1> </h6> <b> <i> <em> <strong> <blockquote> <code> <sup> <sub> <br> <hr>
<｜end▁of▁sentence｜> <｜begin▁of▁sentence｜> <|channel|> <|message|> <think> </think>""".split()

lines = []
seen = set()


def add(text):
    if text and text not in seen:
        seen.add(text)
        lines.append(text)


for sentence in SENTENCES.strip().split("\n"):
    add(sentence)
for line in CODE.strip().split("\n"):
    add(line)
    add("    " + line)
    add("\t\t" + line.upper())

# Words of every sentence on their own, with and without a space, in other cases.
words = [w for s in SENTENCES.split("\n") for w in s.split(" ") if w]
for word in RNG.sample(words, 160):
    add(word)
    add(" " + word)
for word in RNG.sample(words, 60):
    add(word.upper() + " " + word.lower() + " " + word.capitalize() + "'s")

for emoji in EMOJI:
    add(emoji)
for _ in range(60):
    add(RNG.choice(["", " ", "a", "1"]).join(RNG.choices(EMOJI, k=RNG.randint(2, 6))))

for name, chars in SCRIPT_CHARS.items():
    for n in (1, 2, 3, 5, 9):
        add("".join(RNG.choices(chars, k=n)))
    add(" ".join("".join(RNG.choices(chars, k=RNG.randint(1, 6))) for _ in range(5)))
    add("a" + "1".join(RNG.choices(chars, k=4)) + "'s")
    add("".join(c + RNG.choice(SCRIPT_CHARS["marks"]) for c in RNG.choices(chars, k=6)))
    add(RNG.choice(chars) * RNG.randint(5, 40))
    add("\n".join(RNG.choices(chars, k=3)) + "\r\n" + RNG.choice(chars))
    add("x" + RNG.choice(chars) + "X" + RNG.choice(chars) + "9" + RNG.choice(chars) + " ")
    add(RNG.choice(SPACES).join(RNG.choices(chars, k=6)))

# Numbers: lengths, groupings, digits of many scripts.
for n in list(range(1, 14)) + [20, 33, 64, 100]:
    add("".join(RNG.choices("0123456789", k=n)))
    add("a" + "".join(RNG.choices("0123456789", k=n)) + "b")
    add(" " + "".join(RNG.choices("0123456789", k=n)) + ".5")
for _ in range(40):
    add("".join(RNG.choices(SCRIPT_CHARS["numbers"] + "0123456789", k=RNG.randint(2, 9))))
for text in ("3.14159", "1,000,000", "1 000 000", "12:34:56", "+49 (0)30 123456-78", "007", "1/2", "50%", "#1", "-1", "1-1=0", "x2", "2x", "1st 2nd 3rd"):
    add(text)

# Runs of whitespace, alone and between words.
for n in list(range(1, 20)) + [31, 32, 33, 63, 64, 65, 100, 130]:
    add(" " * n)
    add("\n" * n)
    add("\t" * n)
    add("a" + " " * n + "b")
    add("a" + " " * n)
    add(" " * n + "a")
    add("a" + "\n" * n + "b")
    add("a\n" + " " * n + "b\n")
    add("\r\n" * n + "x")
for space in SPACES:
    add(space)
    add(space * 2)
    add("a" + space + "b")
    add("a" + space * 2 + "b" + space)
    add(" " + space + "a")
    add(space + " a")
    add(space + "\n")
    add("." + space + "!" + space + "1")
for _ in range(160):
    add("".join(RNG.choices(SPACES + "    \n\n\t", k=RNG.randint(2, 9))) + RNG.choice(["", "a", "A", "1", ".", "é", "中"]))
for _ in range(60):
    add("a".join("".join(RNG.choices(" \n\t\r", k=RNG.randint(1, 5))) for _ in range(RNG.randint(2, 5))))

# Apostrophes in all cases, also with characters that fold to letters.
for apostrophe in "'’`´ʼ＇":
    for suffix in ("s", "S", "t", "T", "m", "M", "d", "D", "re", "RE", "Re", "rE", "ve", "VE", "Ve", "ll", "LL", "lL", "Ll", "ſ", "K", "x", "", "r", "v", "l", "es", "sé", "s1", "ss"):
        if apostrophe == "'" or RNG.random() < 0.25:
            add("it" + apostrophe + suffix)
        if apostrophe == "'":
            add(apostrophe + suffix)
            add(" " + apostrophe + suffix + " x")
            add("1" + apostrophe + suffix + "!")
            add("É" + apostrophe + suffix + "'" + suffix)

for char in CONTROL + INVISIBLE + ODD:
    add(char)
    add("a" + char + "b")
    if RNG.random() < 0.4:
        add(" " + char + char + " 1" + char)
for _ in range(60):
    add("".join(RNG.choices(CONTROL + INVISIBLE + ODD + "ab1. ", k=RNG.randint(2, 8))))

# Control tokens written out, whole and broken.
for special in SPECIALS:
    add(special)
    add("a" + special + "b")
    add(" " + special + " x")
    if RNG.random() < 0.5:
        add(special[:-1])
        add(special[1:] + special)
    if RNG.random() < 0.3:
        add(special.upper() + "\n" + special * 2)
        add(special.replace("|", "│").replace("<", "< "))
for _ in range(80):
    add("".join(RNG.choice(SPECIALS + ["\n", " ", "user", "hello", "  ", "\n\n", "<", "|", ">", "é"]) for _ in range(RNG.randint(2, 7))))
add("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
add("<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n")
add("<bos><bos><start_of_turn>user\n  Hi  <end_of_turn>\n\n\n")
add("<<|im_start|>|im_end|>>")
add("<|im_<|im_end|>start|>")
add("<|endoftext|" + "<|endoftext|>" + "|>")
add("<table><tr><td>1</td></tr></table>\n\n\n<h1>x</h1>")

# Long words and repetitions.
for unit, n in (("a", 300), ("ab", 150), ("abc", 99), ("A", 200), ("é", 120), ("中", 100), ("ा", 60), ("ก", 80), ("!", 130), ("=", 200), ("-", 81), (".", 77), ("_", 64), ("#", 33), ("()", 50), ("{[", 40), ("\\", 65), ("\"", 31), ("👍", 30), ("👨‍👩‍👧", 9), ("á", 50), ("ÿ", 70), ("0", 128), ("10", 64), ("▁", 40), ("Ġ", 40), ("Ċ", 20), ("ĉ", 9)):
    add(unit * n)
    add("x" + unit * (n // 3) + " y")
for word in ("Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft", "Pneumonoultramicroscopicsilicovolcanoconiosis", "Muvaffakiyetsizleştiricileştiriveremeyebileceklerimizdenmişsinizcesine", "нидвухсотшестидесятипятилетиеобразный", "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd"):
    add(word)
    add(" " + word.upper())
    add(word + word.capitalize())

# Mixed noise.
pools = list(SCRIPT_CHARS.values()) + [SPACES, "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "'.,!? \n"]
for _ in range(420):
    add("".join("".join(RNG.choices(RNG.choice(pools), k=RNG.randint(1, 5))) for _ in range(RNG.randint(2, 6))))
for _ in range(120):
    chars = []
    while len(chars) < 6:
        code = RNG.randrange(0x110000) if RNG.random() < 0.3 else RNG.randrange(0x3000)
        if not 0xD800 <= code < 0xE000:
            chars.append(chr(code))
    add("".join(chars))
for _ in range(100):
    a, b = RNG.choice(lines), RNG.choice(lines)
    add(a[: RNG.randint(1, 30)] + b[-RNG.randint(1, 30):])

for line in lines:
    sys.stdout.write(json.dumps(line, ensure_ascii=False).replace("\x7f", "\\u007f").replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n")
