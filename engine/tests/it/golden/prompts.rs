//! Twenty prompts of 5 to 900 tokens; few long ones, because the other implementation takes long for them.

use models::Tokenizer;

const LENGTHS: [usize; 20] = [5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 20, 24, 28, 31, 32, 33, 48, 64, 128, 900];

const TEXTS: [&str; 5] = [
    "The lighthouse keeper wrote in his book every evening, first the wind, then the ships, then what he had eaten. \
     On the day of the great storm he wrote nothing about the wind at all, because the wind had taken the pen.",
    "To make bread one needs flour, water, salt and time. Mix the first three and wait. The dough is ready when it has \
     doubled; bake it in a hot oven until the crust sounds hollow. Let it cool before you cut it.",
    "fn main() {\n    let numbers = [3, 1, 4, 1, 5, 9, 2, 6];\n    let mut total = 0;\n    for n in numbers {\n        \
     total += n;\n    }\n    println!(\"{total}\");\n}\n",
    "Q: What is the capital of France?\nA: Paris.\nQ: How many legs has a spider?\nA: Eight.\nQ: What is 17 + 25?\nA:",
    "La mer \u{e9}tait calme et le ciel sans nuages. Die Stra\u{df}e war leer, und niemand sprach. \u{6771}\u{4eac}\u{306f}\
     \u{5927}\u{304d}\u{3044}. The report lists 12,450 units at $3.75 each; see table 4.",
];

pub(crate) fn all(tokenizer: &Tokenizer) -> Vec<Vec<u32>> {
    let prompt = |(i, length): (usize, &usize)| {
        let mut tokens = Vec::new();
        // Long ones go through the texts in different orders, so that they do not just repeat themselves.
        for part in i.. {
            tokens.extend(tokenizer.encode_text(TEXTS[part % TEXTS.len()]).expect("plain text"));
            if tokens.len() >= *length {
                tokens.truncate(*length);
                break;
            }
        }
        tokens
    };
    LENGTHS.iter().enumerate().map(prompt).collect()
}
