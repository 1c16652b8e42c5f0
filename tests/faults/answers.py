"""Answers that must pass and answers that must not: a line a gold answer, `@` before what is worth the same, `#` before what is not.

    python tests/faults/answers.py        how many are judged wrongly: by the verifier, and by math-verify alone

Lines may be argued about. What they demand: an answer to a number is a number, written out (docs/verifier.md).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

TABLE = r"""
== integers
3 @ 3.0 @ +3 @ 03 @ 3. @ $3$ @ \(3\) @ \mathbf{3} @ \text{3} @ x=3 @ x = 3.0 @ f(7)=3 @ x_1=3 @ \text{Area}=3 @ 1+2=3 @ (3) @ \{3\}
3 @ 3 \text{ units} @ 3\,\mathrm{cm}^2
3 @ \sqrt{9} @ \frac{6}{2} @ 3\times 10^0 @ x\approx 3 @ AB = 3 @ \angle A = 3^\circ @ 3=x @ \boxed{3} @ 3^1 @ \text{The answer is } 3
3 @ x+1=4 \Rightarrow x=3 @ \displaystyle 3
3 # 4=3 # 0=3 # 1=2=3 # 2+2=3 # x=4=3 # \ne 3 # \neg 3 # x\neq 3 # 3\% # 3_4 # 3' # 3 \approx 4 # 3\text{ thousand} # 3\text{ dozen}
3 # 3\text{ (or 4)} # \sum 3 # \sum_{x=3} # \lim_{x\to 3} # 3! # |-3|
3 # 6/2 # 1+2 # 3+0 # 3\cdot 1 # 9/3 # 3-0 # (1+1)+1 # 2+1=2 # \log_2 8 # \log_2 9=3 # \pm 3 # --3 # x<3 # x\le 3 # 3,4 # 3 \text{ or } 4
3 # \text{not } 3 # \text{less than }3 # 3\text{ or more} # \text{at least } 3 # 3;4 # -3 # 30 # 0.3 # 33
43 @ 43 @ 43.00 @ 17+26=43 @ x = 43 @ 43 \text{ apples} @ \$43 @ 43\text{ dollars} # 17+26 # 26+17 # 17 + 26 = x # 44 # 42+1 # 86/2 # 43/1+0
43 # 50-7 # 17+26=44 # 44=43
6 @ 6 @ \frac{12}{2} @ 6.0 # 18/3 # 2*3 # 2\times 3 # 36/6 # 3! # 12\div 2 # 6 6 # 2 \cdot 3 # 1,2,3 # \binom{4}{2} # 7
-5 @ -5.0 @ −5 @ - 5 @ x=-5 @ \frac{-10}{2} @ -\frac{5}{1} # 5 # -6 # 0-5 # -(2+3) # |-5| # \pm 5 # 5- # -5+0
0 @ 0.0 @ -0 @ 00 @ x=0 @ 0\text{ cm} # 1 # 3-3 # \emptyset # 0.1 # 0=1 # 10^{-9} # \frac{1}{10^{8}} # 0+0
14400 @ 14\,400 @ 14,400 @ 14{,}400 @ 14400.0 @ 1.44\times 10^4 @ 1.44 \cdot 10^{4} # 14.400 # 1440 # 144\times 100 # 120^2=14401 # 14\,401
14400 # 14400.1 # 1.45\times 10^4
1234567 @ 1,234,567 @ 1234567.0 # 1,234,568 # 1234567.5 # 1.23457\times 10^6 # 123456 # 12345678
1024 @ 2^{10} @ 1024.0 @ 1{,}024 # 2^{11} # 2^5\cdot 2^5 # 4^{6} # 1000+24 # 1025 # 2^{9}\cdot 2
2^{100} @ 1267650600228229401496703205376 @ 2^{100} # 1267650600228229401496703205377 # 2^{101} # 2^{99} # 2^{99}+2^{99}=2^{99}
120 @ 120 @ 120.0 # 5! # 5\cdot 24 # 12 # 1200 # \binom{10}{3} # 60\text{ or }120 # 4!
12 @ 12 \text{ ways} @ n = 12 @ |S| = 12 @ a + b = 12 @ \text{12 cm} @ 12\text{ cm}^3 @ 12 \ \text{minutes} @ {12} @ \$ 12
12 @ 12\text{ square units} @ \text{Total} = 12
12 @ AB \cdot CD = 12 @ \sum_{k=1}^{3} 2k = 12 @ \lim_{n \to \infty} a_n = 12 @ \gcd(24,36) = 12 @ \boxed{12}\text{ cm} @ 12 \text{ people}
12 @ 12_{10} @ 12\text{ units} @ \textbf{12}
12 @ 5 + 7 = 12 @ 3 \cdot 4 = 12 @ f(x) = 12 @ \triangle ABC = 12 @ \theta = 12^\circ @ \text{Answer: } 12 @ 12 \text{ hours}
12 @ 12\,\text{kg} @ x = y = 12 @ 12\text{ cm}^{2} # 12_3 # 11 # 5+7=13
12 # 13=12 # 3\cdot 4 # \gcd(24,36) # \lim_{n\to\infty} a_n=13 # 1\text{ dozen} # 12\text{ or so, or }11 # \int 12 # x>12 # 12! # 12^2 # 12+
12 # \sin 12 # \frac{12}{2} # \frac{1}{12}
== decimals
0.5 @ .5 @ 0.50 @ \frac{1}{2} @ 1/2 @ 2/4 @ 50\% @ x=0.5 @ \frac{2}{4} @ 2^{-1} @ 5\times 10^{-1} # 0.05 # 5 # 1-0.5 # 0.25+0.25 # -0.5
0.5 # 0.5\% # 50 # 0.51 # 1\div 2
3.14 @ 3.140 @ \frac{157}{50} @ 3.14\text{ m} # 3.15 # \pi # 3.1 # 314 # 3+0.14 # 3.141
14400.5 @ 14\,400.5 @ 14,400.5 @ \frac{28801}{2} # 14400.6 # 14400 # 14400.4 # 14400+0.5
0.00001 @ 10^{-5} @ 1\times 10^{-5} @ \frac{1}{100000} # 0.00002 # 0.000001 # 0.0000101 # 0 # 10^{-6}
2.5 @ \frac{5}{2} @ 2\frac{1}{2} @ 2 1/2 @ 5/2 @ 2.50 # 25 # 2+\frac{1}{2} # 2.05 # 3-0.5 # 10/4+0
== fractions
\frac{1}{3} @ 1/3 @ \frac13 @ \dfrac{1}{3} @ \frac{2}{6} @ 0.333333 @ 0.3333333333 @ x=\frac{1}{3} @ P(A)=\frac13
\frac{1}{3} @ \frac{1}{3} \approx 0.333 # 0.3 # 0.33 # 0.3333 # \frac{1}{4} # \frac{3}{1} # -\frac{1}{3} # 1-\frac{2}{3}
\frac{1}{3} # \frac{1}{3}\approx 0.4 # \frac{1+0}{3} # \frac{1}{2}\cdot\frac{2}{3}
-\frac{1}{2} @ \frac{-1}{2} @ \frac{1}{-2} @ -0.5 @ -1/2 # \frac{1}{2} # 0.5 # -2 # \frac{1}{2}-1 # -\frac{1}{3}
\frac{7}{3} @ 2\frac{1}{3} @ 7/3 @ 2 \frac{1}{3} @ \frac{14}{6} @ 2.3333333 # 2.3 # \frac{3}{7} # 2\frac{2}{3} # 2+\frac13 # 73
\frac{7}{3} # 1\frac{1}{3}
\frac{11}{2} @ 5\frac{1}{2} @ 5.5 @ 5 1/2 # 1\frac{1}{2} # 1 1/2 # 51/2 # 5+\frac12 # \frac{2}{11}
\frac{1}{1024} @ 2^{-10} @ \frac{1}{2^{10}} @ 1/1024 # \frac{1}{1025} # 2^{-11} # 1024 # \frac{1}{1023}
\frac{1}{2^{99}} @ 2^{-99} @ \frac{2}{2^{100}} # \frac{1}{2^{98}} # \frac{1}{2^{100}} # 0 # 0.0000001
\frac{22}{7} @ 22/7 @ 3\frac{1}{7} @ 3.142857 @ \frac{44}{14} # \pi # 3.14 # 3.142 # \frac{7}{22} # 3+\frac{1}{7}
\frac{a}{b} @ a/b @ \dfrac{a}{b} @ \frac{2a}{2b} # \frac{b}{a} # a-b # \frac{a}{2b} # \neg\frac{a}{b}
\frac{x^2-1}{x-1} @ x+1 @ 1+x # x-1 # x^2-1 # x # \ne x+1
== roots and pi
\sqrt{2} @ 2^{1/2} @ \frac{2}{\sqrt{2}} @ 1.41421356 @ x=\sqrt2 @ \sqrt 2 # 1.41 # \sqrt{3} # 2 # -\sqrt{2} # \sqrt{2}=3 # \ne\sqrt2
\sqrt{2} # \pm\sqrt2 # 4=\sqrt{2}
\sqrt{8} @ 2\sqrt{2} @ 2\sqrt2 @ 2\cdot\sqrt{2} @ \sqrt{4\cdot 2} # \sqrt{2} # 8 # 4\sqrt{2} # 2\sqrt{3} # \sqrt[3]{8} # 1=2\sqrt2
\frac{\sqrt{2}}{2} @ \frac{1}{\sqrt{2}} @ \sqrt{\frac12} @ 0.70710678 # \sqrt2 # \frac{\sqrt{3}}{2} # 0.7 # \frac{2}{\sqrt{2}}
\frac{\sqrt{2}}{2} # -\frac{1}{\sqrt{2}}
\sqrt[3]{8} @ 2 @ 2.0 # 3 # \sqrt{8} # -2 # 8
1+\sqrt{5} @ \sqrt5+1 @ \sqrt{5}+1 @ 3.2360679775 # \sqrt{6} # 1-\sqrt5 # 1+\sqrt{3} # \neg(1+\sqrt5)
\pi @ π @ 3.14159265 @ \frac{2\pi}{2} # 3.14 # \frac{22}{7} # 2\pi # 3 # \pi=4 # \neq \pi
2\pi r @ r\cdot 2\,\pi @ 2\pi\cdot r @ 2r\pi # \pi r # 2\pi # \pi r^2 # \ne 2\pi r
\frac{\pi}{4} @ \pi/4 @ 0.25\pi @ 0.7853981634 # \frac{\pi}{3} # 0.78 # \frac{4}{\pi} # 45
== scientific notation
6.67\times 10^{-11} @ 6.67\cdot 10^{-11} @ 0.667\times 10^{-10} @ 66.7\times 10^{-12} @ 6.670\times 10^{-11} @ G = 6.67\times 10^{-11}
6.67\times 10^{-11} # 0.0000001 # 6.68\times 10^{-11} # 6.67\times 10^{-12} # 6.67\times 10^{11} # 0 # 6.67
1.6\times10^{-19} @ 16\times 10^{-20} @ 1.60\cdot10^{-19} @ 1.6 \times 10^{-19}\text{ C} # 9.1\times10^{-31} # 1.6\times10^{-18}
1.6\times10^{-19} # 1.7\times10^{-19} # -1.6\times10^{-19} # 10^{-19}
6.02\times 10^{23} @ 60.2\times 10^{22} @ 6.020\cdot 10^{23} @ 602000000000000000000000 # 6.02\times 10^{22} # 6.03\times 10^{23} # 6.02
6.02\times 10^{23} # 6.0\times10^{23}
3.2\times 10^5 @ 320000 @ 3.2\cdot 10^{5} @ 320\,000 @ 320,000 @ 32\times 10^4 # 3.2\times 10^6 # 320 # 3.2 # 320001 # 3.2\times 100000
10^{100} @ 10^{100} @ 1\times 10^{100} # 10^{101} # 10^{99} # 100^{10} # 10\cdot 100
10^{-3} @ 0.001 @ \frac{1}{1000} @ 1\times 10^{-3} # 0.01 # 0.002 # 10^3 # -0.001
9.1\times 10^{31} @ 91\times 10^{30} @ 9.10\times 10^{31} # 9.2\times 10^{31} # 9.1\times 10^{30}
== percent, units, money
50\% @ P = 50\% @ 50 @ 0.5 @ \frac{1}{2} @ 50 \% @ \frac{50}{100} @ 50\text{ percent} @ 50.0\% # 51\% # 5 # 5\% # 500\% # 0.05 # -50\%
50\% # 49+1 # 0.51
12.5\% @ 12.5 @ 0.125 @ \frac{1}{8} @ 12.50\% # 12\% # 1.25\% # 125\% # 0.12
5\text{ cm} @ 5 @ 5\,\mathrm{cm} @ 5.0\text{ cm} @ 5\text{cm} @ x=5\text{ cm} # 6\text{ cm} # 50\text{ cm} # 4=5\text{ cm}
5\text{ cm} # \text{about } 5\text{ cm} # 2+3\text{ cm} # \ne 5
90^\circ @ 90 @ 90^{\circ} @ 90° @ 90\text{ degrees} @ \angle A=90^\circ # 91^\circ # 45^\circ+45^\circ # 9^\circ # \frac{\pi}{3} # 180
\$10 @ 10 @ \$10.00 @ 10\text{ dollars} @ 10.00 # \$11 # \$1.0 # \$5+\$5 # \$10\text{ thousand} # 100
10 @ \$10 @ 10\text{ dollars} @ 10^\circ @ 10\text{ m/s} @ 10\text{ m/s}^2 @ 10\text{ km/h} # 10\text{ million} # 10\text{ hundred}
10 # 10\text{ or so or }9 # \text{approximately } 11 # 10\% # \text{no more than } 10
60\text{ km/h} @ 60 @ 60\text{ km/h} @ 60\,\text{km/h} # 61 # 6 # 600 # 60\text{ thousand km/h}
== sets and lists
\{1,2,3\} @ \{3,2,1\} @ 1,2,3 @ \left\{ 1, 2, 3 \right\} @ \{1.0,2,3\} # \{1,2\} # \{1,2,4\} # \{1,2,3,4\} # 1,2 # \{\} # \ne\{1,2,3\}
\{1,2,3\} # \{0,2,3\}
1,2 @ 2,1 @ 1 \text{ and } 2 @ \{1,2\} # 1 # 2 # 1,3 # 12 # 1,2,3 # (1) # \neg 1,2
\{10^{-9},1\} @ \{1,10^{-9}\} @ \{1, 0.000000001\} # \{2\cdot 10^{-9},1\} # \{1\} # \{1,10^{-8}\}
\emptyset @ \{\} # \{0\} # 0 # \{1\} # \mathbb{R}
\pm 5 @ 5,-5 @ \pm5 @ \{-5,5\} # 5 # -5 # \pm 6 # \{5\}
(1,2) @ \left( 1, 2 \right) @ (1.0,\frac{4}{2}) @ (1,2.0) # (2,1) # (1,3) # (1,2,3) # \{2,1\} # [1,2] # (1,2]
(1,2,3) @ (1,2,3.0) @ \left(1,2,3\right) # (1,2) # (3,2,1) # (1,2,4) # (1,2,3,4)
== intervals and inequalities
[0,1] @ 0 \le x \le 1 @ \left[0,1\right] @ [0, 1.0] # (0,1) # [0,1) # [0,2] # 0<x<1 # 0 # [1,0]
(0,1) @ 0 < x < 1 @ \left(0,1\right) @ x\in(0,1) # [0,1] # (0,1] # (0,2) # x<1 # 0 \le x < 1
(3,\infty) @ x > 3 @ (3, \infty) @ 3 < x # [3,\infty) # x\ge 3 # x<3 # (-\infty,3) # (3,4) # 3 # x\ne 3
x > 3 @ 3 < x @ (3,\infty) # x<3 # x\ge 3 # [3,\infty) # x>4 # x=3 # x\neq 3
(-\infty,0) \cup (1,\infty) @ (1,\infty) \cup (-\infty,0) @ (-\infty,0)\cup(1,+\infty) # (-\infty,0] \cup (1,\infty) # (-\infty,0) # (0,1)
(-\infty,0) \cup (1,\infty) # (-\infty,\infty)
\mathbb{R} @ (-\infty,\infty) # (0,\infty) # \emptyset # 0
== equations and algebra
x=5 @ 5 @ x = 5.0 @ 5=x # y=5 # x=6 # 6 # x\ne 5 # x=4=5 # \neg(x=5)
y=2x+1 @ y=1+2x @ 2x+1 @ y = 2x + 1 # y=2x-1 # 2x # y=x+1 # y\ne 2x+1
x^2+2x+1 @ (x+1)^2 @ 1+2x+x^2 @ x^2+x+x+1 # (x-1)^2 # x^2+1 # x^2+2x # \ne (x+1)^2
3+4i @ 4i+3 @ 3 + 4i # 3-4i # 5 # 7i # 4+3i
a-b @ -b+a @ a - b # b-a # a+b # ab
3:4 @ \frac{3}{4} @ 3 : 4 # 4:3 # 3:5 # 34 # 1
\infty @ \infty @ +\infty # -\infty # 0 # 1000000
== text and choices
\text{Monday} @ Monday @ \text{monday} @ \text{ Monday } @ \textbf{Monday} # \text{Tuesday} # \text{not Monday} # \neg\text{Monday}
\text{Monday} # \text{Mon} # 1
\text{even} @ \text{even} @ \text{Even} @ even # \text{odd} # \text{not even} # \text{even or odd} # 2
\text{Yes} @ yes @ \text{yes} @ \text{Yes} # \text{No} # \text{not Yes} # \text{Yes and No} # 1
A @ \text{A} @ (A) @ \textbf{A} # B # (B) # \text{A or B} # A,B # \ne A # AB
\text{C} @ C @ \textbf{(C)} @ (C) # \textbf{(D)} # D # \text{not C} # C,D
\text{6:30 PM} @ \text{6:30 PM} # \text{6:30 AM} # \text{7:30 PM} # 6
"""


def rows():
    """(kind, gold, answer, whether it must pass) of every answer."""
    kind, found = "", []
    for line in TABLE.strip().splitlines():
        if line.startswith("== "):
            kind = line[3:]
            continue
        gold, *marked = [piece.strip() for piece in line.replace(" @ ", "\n@").replace(" # ", "\n#").split("\n")]
        found += [(kind, gold, piece[1:].strip(), piece[0] == "@") for piece in marked]
    return found


def errors(judge):
    """judge(responses, golds) -> rewards: the rows that it judges wrongly, right ones refused and wrong ones paid."""
    table = rows()
    rewards = judge([rf"\boxed{{{answer}}}" for _, _, answer, _ in table], [gold for _, gold, _, _ in table])
    judged = [(row, reward == 1) for row, reward in zip(table, rewards, strict=True)]
    return [row for row, paid in judged if row[3] and not paid], [row for row, paid in judged if paid and not row[3]]


def math_verify_alone(responses, golds):
    """What its own README does, but for the box, which it is handed."""
    from math_verify import parse, verify

    return [verify(parse(rf"\boxed{{{gold}}}"), parse(response)) for response, gold in zip(responses, golds)]


def main():
    from plumbing.verifier import verify

    right = sum(passes for *_, passes in rows())
    print(f"{right} answers that must pass, {len(rows()) - right} that must not")
    for name, judge in (("this verifier", verify), ("math-verify alone", math_verify_alone)):
        refused, paid = errors(judge)
        print(f"{name}: {len(refused)} right ones refused, {len(paid)} wrong ones paid")
        for kind, gold, answer, _ in [*refused, *paid] if "-v" in sys.argv or name == "this verifier" else []:
            print(f"    {kind}: {gold}   {answer}")


if __name__ == "__main__":
    main()
