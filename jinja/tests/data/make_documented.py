"""Expressions and templates of Jinja2's documentation for template designers, and what else its reference says: every
filter, test, statement and the methods of Python's types. Writes documented.json.

    python make_documented.py
"""

import json
import pathlib
import runpy

HERE = pathlib.Path(__file__).resolve().parent
rendered = runpy.run_path(str(HERE / "jinja2.py"))["rendered"]

VARIABLES = {
    "users": [
        {"username": "bob", "email": "b@example.org", "city": "New York", "age": 30, "is_active": True, "tags": ["x", "y"]},
        {"username": "Ann", "email": None, "city": "los angeles", "age": 25, "is_active": False, "tags": []},
        {"username": "carl", "city": "new york", "age": 30, "is_active": True, "tags": ["y"]},
    ],
    "seq": [3, 1, 2, 3],
    "words": ["b", "A", "c", "B"],
    "text": "  Hello, <World>!\nIt's a \"test\" \t",
    "name": "john doe",
    "unicode": "Straße ΑΣ é日本😀",
    "my_dict": {"b": 2, "a": 1, "C": 3, "items": "mine", "n": {"m": [1, 2, {"k": "v"}]}},
    "empty": [],
    "number": 42,
    "negative": -7,
    "real": 3.14159,
    "big": 12345678901234567890,
    "yes": True,
    "nothing": None,
    "sitemap": [{"title": "A", "children": [{"title": "B", "children": [{"title": "C"}]}, {"title": "D"}]}, {"title": "E"}],
    "markup": "<p>one &amp; <!-- c --> two</p>",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>a</think>b", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1.0}}}]},
        {"role": "user", "content": "Bye"},
    ],
    "tools": None,
}

EXPRESSIONS = r"""
foo
foo.bar is defined
foo|default('x')
my_dict.a
my_dict['a']
my_dict.items
my_dict['items']
my_dict.missing
my_dict.n.m[2].k
my_dict.n.m.2.k
my_dict.n.m[-1]['k']
my_dict.n.m[9]
nothing.x
nothing.x.y
nothing[0]
foo.bar
foo['bar']
seq[0]
seq[-1]
seq[1:]
seq[:2]
seq[::2]
seq[::-1]
seq[5:]
seq[-2:]
seq['x']
text[0]
unicode[2]
unicode[1:4]
unicode[::-1]
unicode[-1]
number[0]
number[1:]
42
42.23
42e2
1_000
0x1f
0b101
0o17
1_2.3_4
'a' 'b'
"it's"
'\x41\u00e9\n\t\\'
[1, 2, 3]
[]
(1, 2)
(1,)
()
1, 2
{'a': 1, 'b': [2]}
{}
{1: 'a', true: 'b', 1.0: 'c'}
true
True
none
None
1 + 1
3 - 2
1 / 2
20 // 7
-20 // 7
20 % 7
-20 % 7
20 % -7
7.5 // 2
-7.5 // 2
7.5 % -2
2 * 2
'=' * 10
[0] * 3
3 * 'ab'
'a' * -1
2 ** 3
2 ** -1
2 ** 3 ** 2
-2 ** 2
2 ** 0.5
-number
+number
--number
-'a'
1 + 1.5
'a' + 'b'
[1] + [2]
(1,) + (2,)
'a' + 1
1 + 'a'
foo + 'a'
true + 1
1 / 0
1 // 0
1 % 0
1.0 / 0
number ~ 'a' ~ none ~ true ~ 1.5 ~ foo
1 == 1
1 == 1.0
1 == true
'a' == 'b'
[1, [2]] == [1, [2]]
{'a': 1} == {'a': 1.0}
(1,) == [1]
1 != 2
1 < 2
1 < 2 < 3
1 < 3 < 2
1 == 1.0 == true
'a' < 'b'
'a' < 1
[1, 2] < [1, 3]
(1,) < (1, 2)
none < 1
foo < 1
1 >= 1
2 > 1 > 0
not true
not foo
not not 1
true and false
1 and 2
0 and 2
0 or 'x'
none or foo
'' or [] or 5
1 in [1, 2, 3]
1 not in [1, 2]
not 1 in [1]
'a' in 'abc'
1 in 'abc'
'a' in my_dict
1 in number
'x' in foo
foo in [1]
foo in 'abc'
3 in range(5)
3 in range(0, 10, 2)
number is defined
foo is defined
foo is undefined
foo is not defined
number is number
number is integer
real is float
real is number
yes is number
yes is integer
yes is boolean
yes is true
yes is false
nothing is none
none is iterable
foo is iterable
tools is iterable
tools is iterable and tools | length > 0
number is iterable
'ab' is iterable
my_dict is iterable
seq is sequence
'ab' is sequence
my_dict is sequence
number is sequence
none is sequence
foo is sequence
my_dict is mapping
seq is mapping
foo is mapping
text is string
number is string
'abc' is lower
'ABC' is upper
'aBc' is upper
'1' is lower
3 is odd
4 is even
'a' is odd
9 is divisibleby 3
9 is divisibleby(2)
number is sameas number
none is sameas none
true is sameas true
1 is sameas true
1 is in [1, 2]
4 is in [1, 2]
1 is eq 1
1 is equalto 2
1 is ne 2
1 is gt 0
1 is greaterthan 2
1 is ge 1
1 is lt 2
1 is lessthan 0
1 is le 1
'upper' is filter
'nope' is filter
'odd' is test
range is callable
number is callable
foo is callable
'x' is escaped
('x'|e) is escaped
number is nonsense
number|nonsense
1 if true else 2
1 if false
1 if false else 2 if false else 3
(1 if foo)|default('d')
number|abs
negative|abs
real|abs
'a'|abs
my_dict|attr('items')
my_dict|attr('a')
my_dict|attr('b') is defined
seq|batch(2)|list
seq|batch(3, 'x')|list
seq|batch(3, fill_with=0)|list
'hELLO wORLD'|capitalize
unicode|capitalize
42|capitalize
'foo'|center(10)
'foo'|center(9)
'fooo'|center(9)
'foo'|center ~ '|'
foo|default
foo|default('my')
''|default('x')
''|default('x', true)
''|default('x', boolean=true)
foo|d('x')
my_dict|dictsort
my_dict|dictsort(true)
{'b': 'x', 'a': 'Y'}|dictsort(false, 'value')
{'b': 'x', 'a': 'Y'}|dictsort(reverse=true)
{'b': 'x', 'a': 'Y'}|dictsort(by='nope')
'<a href="x">&\'</a>'|escape
'<'|e|e
'<'|escape|forceescape
'<a>'|e ~ '<b>'
('<a>'|e) + '<b>'
'<b>' + ('<a>'|e)
('<a>'|safe) + '<b>'
('<a>%s'|safe) % '<b>'
('<a>{}'|safe).format('<b>')
1|filesizeformat
100|filesizeformat
1000|filesizeformat
1234567|filesizeformat
1234567|filesizeformat(true)
10000000000000000000000000000|filesizeformat
seq|first
[]|first
'abc'|first
''|first
'42'|float
'x'|float
'x'|float(1.5)
3|float
none|float
'1e3'|float
'inf'|float
' 12 '|float
'%s, %s!'|format('Hello', 'World')
'%(a)s'|format(a=1)
'%d %5d %-5d| %05d %+d %x %X %o %#x'|format(1, 2, 3, 4, 5, 255, 255, 8, 255)
'%f %.2f %e %g %G %10.3f|'|format(1.5, 2.675, 12345.678, 0.00001, 1e20, 3.14159)
'%s %r %c %%'|format('a', 'a', 'x')
'%5s|%-5s|%.2s'|format('a', 'b', 'cde')
'%s'|format
'%s'|format(1, 2)
'%d'|format('a')
'%s %s' % ('a', 'b')
'%s' % 'a'
'%s' % [1, 2]
'%(a)d %(b)s' % {'a': 1, 'b': 'x'}
'%5.1f%%' % 99.55
'a' % 1
'%i' % 3.9
'%*d' % (5, 42)
users|groupby('city')|list
users|groupby('age')
users|groupby('city', case_sensitive=true)
users|groupby('email', default='none')|map(attribute=0)|list
users|groupby('age')|map(attribute='list')|map('length')|list
'a\nb\n\nc'|indent
'a\nb\n\nc'|indent(2)
'a\nb\n\nc'|indent(2, true)
'a\nb\n\nc'|indent(2, true, true)
'a\nb'|indent('> ')
'a\nb'|indent(width=1, first=true)
'42'|int
'42.7'|int
'x'|int
'x'|int(7)
'0x1f'|int(base=16)
'101'|int(0, 2)
42.9|int
-42.9|int
none|int
true|int
' 1_000 '|int
{'a': 1}|items|list
foo|items|list
[1, 2]|items|list
seq|join
seq|join(', ')
users|join(', ', attribute='username')
'abc'|join('-')
[1, none, true, 'a']|join('|')
[[1], {'a': 2}]|join
5|join
seq|last
[]|last
'abc'|last
seq|length
'abc'|length
unicode|length
my_dict|count
5|length
foo|length
range(3)|length
'abc'|list
my_dict|list
range(3)|list
range(3)
range(0, 10, 3)
range(5, 0, -2)|list
range(1, 2, 0)
range('a')
foo|list
5|list
'ABC'|lower
unicode|lower
users|map(attribute='username')|join(', ')
users|map(attribute='email', default='none')|list
users|map(attribute='tags.0', default='-')|list
words|map('lower')|list
words|map('replace', 'b', 'x')|list
[]|map('lower')|list
seq|max
seq|min
words|max
words|min
words|max(case_sensitive=true)
users|max(attribute='age')
[]|max is defined
[1, 'a']|max
seq|reject('odd')|list
seq|select('odd')|list
seq|select('divisibleby', 3)|list
seq|select('>', 1)|list
seq|select|list
[0, 1, '', 'a', none]|select|list
[0, 1, '', 'a', none]|reject|list
users|selectattr('is_active')|map(attribute='username')|list
users|rejectattr('is_active')|map(attribute='username')|list
users|selectattr('email', 'none')|list|length
users|selectattr('email', 'undefined')|map(attribute='username')|list
users|selectattr('age', 'equalto', 30)|map(attribute='username')|list
users|rejectattr('age', 'gt', 26)|map(attribute='username')|list
messages|selectattr('role', 'equalto', 'system')|list
messages|selectattr('role', 'in', ['user', 'system'])|map(attribute='content')|join(',')
'Hello'|replace('l', 'L')
'Hello'|replace('l', 'L', 1)
'aaa'|replace('a', 'd\'oh, ', 2)
'abc'|replace('', '-')
42|replace('4', '5')
'abc'|replace('b')
seq|reverse|list
'abc'|reverse
unicode|reverse
my_dict|reverse|list
5|reverse
42.55|round
42.55|round(1)
42.55|round(1, 'floor')
42.55|round(1, 'ceil')
42|round
42.5|round
43.5|round
-42.5|round
1234|round(-2)
1234.5|round(-2)
2.675|round(2)
'a'|round
42.1|round(0, 'nope')
'<b>'|safe
seq|slice(2)|list
seq|slice(3)|list
seq|slice(3, 'x')|list
seq|sort
seq|sort(reverse=true)
words|sort
words|sort(case_sensitive=true)
words|sort(true)
users|sort(attribute='age')|map(attribute='username')|list
users|sort(attribute='age,username')|map(attribute='username')|list
users|sort(attribute='city', reverse=true)|map(attribute='username')|list
[1, 'a']|sort
42|string
none|string
[1, 'a', 1.0, none, true]|string
markup|striptags
'<p>a   b\nc</p>'|striptags
[1, 2, 3]|sum
users|sum(attribute='age')
[1, 2]|sum(start=10)
[[1], [2]]|sum(start=[])
['a']|sum
[0.1, 0.2]|sum
'my title is-here (now) [x] it\'s'|title
unicode|title
my_dict|tojson
my_dict|tojson(indent=2)
[1, 1.0, 1e20, none, true, 'é"\n\x01']|tojson
'é😀<>&\''|tojson
'é😀'|tojson(ensure_ascii=true)
{'b': 1, 'a': 2}|tojson(sort_keys=true)
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
[1, {'a': []}]|tojson(separators=(',', ':'))
[[], {}]|tojson(indent=1)
(1, 2)|tojson
foo|tojson
range(2)|tojson
'x'|tojson(indent='--')
[1]|tojson(indent='--')
'  a '|trim
'xxaxx'|trim('x')
'abcba'|trim('ab')
42|trim
'foo bar baz qux'|truncate(9)
'foo bar baz qux'|truncate(9, true)
'foo bar baz qux'|truncate(11)
'foo bar baz qux'|truncate(11, false, '...', 0)
'foo bar baz qux'|truncate(2)
'short'|truncate
['foo', 'bar', 'foobar', 'FooBar']|unique|list
['foo', 'FOO']|unique(true)|list
users|unique(attribute='city')|map(attribute='username')|list
[1, 1.0, true, 2]|unique|list
[[1], [1]]|unique|list
'abc ß'|upper
'a b/c?d=e&ü'|urlencode
{'a': 'b c', 'd': 1}|urlencode
[('a', 1), ('b', '/')]|urlencode
42|urlencode
'hello wonderful world_1'|wordcount
{'class': 'my', 'missing': none, 'id': 'l<1>'}|xmlattr
{'a': 1}|xmlattr(false)
{'a b': 1}|xmlattr
foo|upper
foo|trim ~ '|'
dict(a=1, b=2)
dict([('a', 1)], b=2)
dict(my_dict, a=9).a
dict(1)
text.strip()
text.strip('! \t')
text.lstrip()
text.rstrip()
text.split()
text.split(',')
text.split(None, 1)
text.rsplit(' ', 1)
'a,b,c'.split(',', 1)
'a,b,c'.rsplit(',', 1)
'abc'.split('')
'a\nb\r\nc\n'.splitlines()
'a\nb\r\nc\n'.splitlines(true)
name.title()
'they\'re here'.title()
name.upper()
name.capitalize()
unicode.lower()
unicode.upper()
unicode.swapcase()
unicode.casefold()
unicode.title()
name.startswith('jo')
name.startswith(('x', 'jo'))
name.startswith(['jo'])
name.endswith('doe')
name.startswith('ohn', 1)
name.find('o')
name.find('o', 2)
name.find('x')
name.rfind('o')
name.index('d')
name.index('x')
name.count('o')
'aaa'.count('a', 1)
'aaa'.count('')
name.replace('o', '0')
name.replace('o', '0', 1)
name.replace('o')
'-'.join(['a', 'b'])
'-'.join('abc')
'-'.join([1])
'a-b-c'.partition('-')
'a-b-c'.rpartition('-')
'abc'.partition('-')
'abc'.rpartition('-')
'abc'.removeprefix('a')
'abc'.removesuffix('c')
'42'.zfill(5)
'-42'.zfill(5)
'a'.ljust(3) ~ '|'
'a'.rjust(3, '*')
'a'.center(4, '*')
'ab'.center(5, '*')
'a\tb'.expandtabs(4)
'abc'.isalpha()
'ab1'.isalnum()
'12'.isdigit()
'12'.isdecimal()
'1²'.isdigit()
'½'.isnumeric()
' '.isspace()
'Ab Cd'.istitle()
'abc'.islower()
'ABC1'.isupper()
'a b'.isprintable()
'a1'.isidentifier()
'é'.isascii()
''.isalpha()
'{} {}'.format('a', 1)
'{0} {1} {0}'.format('a', 'b')
'{a} {b!r}'.format(a=1, b='x')
'{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd')
'{:5d}|{:05d}|{:+d}|{:,}|{:x}|{:#x}|{:b}|{:o}'.format(1, -2, 3, 1234567, 255, 255, 5, 8)
'{:.2f}|{:10.3f}|{:e}|{:g}|{:%}|{:,.1f}'.format(1.005, 2.5, 12345.678, 0.0001, 0.25, 12345.67)
'{:.3}|{:.2}'.format('abcdef', 3.14159)
'{0[a]} {0[n][m][0]}'.format(my_dict)
'{0.a}'.format(my_dict)
'{}'.format()
'{'.format()
'{{}}'.format()
'{:{}}'.format('a', 5) ~ '|'
'{} {0}'.format(1)
'{:d}'.format('a')
'{:>{w}}'.format('x', w=3)
my_dict.get('a')
my_dict.get('zz')
my_dict.get('zz', 5)
my_dict.keys()
my_dict.values()
my_dict.keys()|list
{'a': 1}.items()
{'a': 1}.items()|list
my_dict.keys()|length
my_dict.update({'x': 1})
my_dict.pop('a')
my_dict.copy() == my_dict
seq.append(1)
seq.count(3)
seq.index(2)
seq.index(9)
seq.copy()
(1, 2).count(1)
seq.sort()
'a'.nope()
'a'.nope
number.bit_length()
real.is_integer()
''.__class__
''.__class__.mro()
my_dict.__class__ is defined
range(3)[1]
range(10)[2:5]
range(3) == range(0, 3)
range(100001)
namespace(a=1).a
namespace(a=1).b is defined
namespace(a=1)
namespace({'a': 1}, b=2).a
cycler('a', 'b').next()
joiner()
joiner('-')()
raise_exception('no')
raise_exception()
strftime_now('%d %b %Y %H:%M:%S')
strftime_now('%Y-%m-%d')
strftime_now('%A, %B %d, %y, %j, %I %p')
none ~ ''
[none, true, 1.0, 'a\n\'b', "c'd", 1e100, 1e-7, -0.0]
['\x00\x7f\xa0\u200b\ue000é日😀\\']
['e\u0301']
1e16
123456789.123456789
1.0
-0.0
1e22
0.1 + 0.2
1e300 * 1e10
5 // 2.0
7 / 2
8 / 2
10 ** 20
big
big + 1
big * big
[1, 2, 3] is sequence
[1,2,3,]
{'a': 1,}
(1 ,2 ,)
foo()
number()
my_dict()
name|upper|lower|title
name | replace('o', '0') | upper
-1|abs
-1 | string ~ 'x'
2 + 3|string|length
not none is none
1 is odd and 2 is even
number if number is defined else 'x'
[1, 2] | first + 5
(1, 2)[0]
'abc'[1]
{'a': 'b'}['a']
{'a': {'b': 'c'}}.a.b
'a' if none else
1 +
"unclosed
[1, 2
{'a' 1}
1 2
a b
is defined
|upper
users[0].username|upper
users[1:]|map(attribute='age')|sum
(users|first).username
(users|last)['username']
users|map(attribute='tags')|sum(start=[])
messages[-1]['content']
messages[0]['role'] == 'system' and messages|length > 1
messages[2].content.split('</think>')[-1].lstrip('\n')
messages[2].content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')
messages[2].tool_calls[0].function.arguments|tojson
messages[2].tool_calls[0].function.name
messages[0].tool_calls is defined
messages[0].tool_calls is defined and messages[0].tool_calls is not none
(messages|length) - 1
loop is defined
caller is defined
users|map(attribute='username')|map('upper')|reject('eq', 'BOB')|list
words|map('upper')
users|selectattr('tags')|map(attribute='tags')|list
words|unique is iterable
words|unique is sequence
words|map('upper')|length
(words|map('upper')|list)|length
(words|map('upper')) is defined
1.5|int + 2
'5' * 2
'5'|int * 2
[3, 1]|sort|join('<')
'a' ~ 'b' ~ 1 + 2
1 ~ 2 * 3
'x' in 'xyz' and 'y' not in 'abc'
true == 1
none == foo
foo == bar
foo != none
[foo]
{'a': foo}
[1, 2] + foo
my_dict|length + number
'%s' % foo
'%s' % none
'a' < 'B'
'é' > 'z'
'{}'.format(none)
'{:5}|'.format(none)
'{!s:>6}'.format(none)
'%5s|' % none
1 if 'a' in my_dict.keys() else 2
my_dict.items()|list|length
my_dict|items|first
{'a': 1}|dictsort|first
[['a', 1]]|map('first')|list
[['a', 1]]|map(attribute=1)|list
[{'a': {'b': 1}}]|map(attribute='a.b')|list
'a,b'|map('upper')|list
'abc'|select('in', 'ab')|join
10|round(1)|string
(10/3)|round(3)
(10/3)|round|int
[1, 2, 3][1:]|join
''|join('x')
[]|join('x')
[1]|join('x')
'\n'|length
text|length
text|upper|trim
'tEST'.capitalize().swapcase()
" a b ".strip().split(" ")
'abc'.find('')
'abc'.rfind('')
'abc'.find('c', -1)
'abc'.find('a', 5)
''.split(',')
''.split()
''.splitlines()
'x'.join([])
'a' is string and 'a' is not mapping
"""

TEMPLATES = [
    # White space.
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n\n",
    "a\n  {%- if true -%}\n  b\n  {%- endif -%}\nc",
    "a\n  {%+ if true +%}\n  b\n  {%+ endif %}\nc",
    "<div>\n    {% for i in seq -%}\n        {{ i }}\n    {%- endfor %}\n</div>",
    "{{ 1 -}}   b {{- 2 }}",
    "a {# c #} b\n{# d #}\ne {#- f -#} g",
    "  {# only #}  \nx",
    "a\r\n{% if true %}\r\nb\r{% endif %}\r\nc\r\n",
    "{{ 'a\r\nb' }}",
    "{% raw %}{{ a }}{% b %}{# c #}{% endraw %}",
    "{% raw -%}  x  {%- endraw %} y",
    "{{ '{{' }} {{ '}}' }} {{ '%}' }}",
    "a\n\n\n",
    "\n\na",
    "{{ 'a' }}\n\n{{ 'b' }}\n",
    "{% if true %}a{% endif %}\n\nb",
    "   {{ 1 }}   \n   {% set x = 1 %}   \n{{ x }}",
    "{%- set x = 1 -%}\n{{- x -}}\n y",
    "#} %} }} { % { {",
    "{{ {'a': {'b': 1}}.a.b }}",
    "{{ {} }}",
    # If.
    "{% if foo %}a{% elif number %}b{% else %}c{% endif %}",
    "{% if false %}a{% elif false %}b{% else %}c{% endif %}",
    "{% if users %}{% for u in users %}{{ u.username }},{% endfor %}{% endif %}",
    "{% if %}a{% endif %}",
    "{% if true %}a",
    "{% endif %}",
    "{% nonsense %}",
    # For.
    "{% for u in users %}{{ loop.index }}/{{ loop.length }} {{ u.username }}{% if not loop.last %}, {% endif %}{% else %}none{% endfor %}",
    "{% for u in empty %}a{% else %}none{% endfor %}",
    "{% for k, v in my_dict.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in my_dict|dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in my_dict %}{{ k }};{% endfor %}",
    "{% for u in users if u.is_active %}{{ loop.index }}{{ u.username }}{{ loop.last }}{% else %}x{% endfor %}",
    "{% for u in users if not u.is_active %}{{ u.username }}{% endfor %}",
    "{% for i in seq %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }} {% endfor %}",
    "{% for i in seq %}{{ loop.previtem }}<{{ i }}<{{ loop.nextitem }} {% endfor %}",
    "{% for i in seq %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for i in seq %}{{ loop.cycle('odd', 'even') }} {% endfor %}",
    "{% for i in [1, 1, 2, 2, 1] %}{% if loop.changed(i) %}{{ i }}{% endif %}{% endfor %}",
    "{% for i in range(10) %}{% if i is odd %}{% continue %}{% endif %}{% if i > 6 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(3) %}{% for j in range(2) %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}|{% endfor %}",
    "{%- for item in sitemap recursive %}{{ loop.depth }}{{ item.title }}{% if item.children %}<{{ loop(item.children) }}>{% endif %}{% endfor %}",
    "{% for item in sitemap recursive %}{{ loop.depth0 }}{{ loop.index }}{{ item.title }}{{ loop(item.children|default([])) }}{% else %}-{% endfor %}",
    "{% for i in seq %}{% set x = i %}{% endfor %}{{ x }}",
    "{% set x = 0 %}{% for i in seq %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(found=false, n=0) %}{% for i in seq %}{% if i == 2 %}{% set ns.found = true %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.found }} {{ ns.n }}",
    "{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }} {% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for a in 5 %}{% endfor %}",
    "{% for a in none %}{% endfor %}",
    "{% for a in foo %}a{% else %}b{% endfor %}",
    "{% for c in 'añ' %}{{ c }}.{% endfor %}",
    "{% for i in range(3) %}{{ loop }}{% endfor %}",
    "{{ loop.index }}",
    "{% for i in seq %}{{ loop.nope }}{% endfor %}",
    "{% for x in seq recursive %}{{ x }}{% endfor %}",
    "{% for x in [1] %}{{ loop([2]) }}{% endfor %}",
    "{% for u in users %}{% for t in u.tags %}{{ t }}{% else %}-{% endfor %};{% endfor %}",
    "{% for u in users|sort(attribute='username') %}{{ u.username }} {% endfor %}",
    "{% for city, items in users|groupby('city') %}{{ city }}: {% for u in items %}{{ u.username }} {% endfor %}|{% endfor %}",
    "{% for g in users|groupby('age') %}{{ g.grouper }}{{ g.list|length }} {% endfor %}",
    "{% for row in seq|batch(2, '-') %}{{ row|join }}|{% endfor %}",
    "{% for i in seq|reverse %}{{ i }}{% endfor %}",
    "{% for i in 1, 2, 3 %}{{ i }}{% endfor %}",
    "{% for i in seq[1:] + [9] %}{{ i }}{% endfor %}",
    "{% for i in (seq if yes else []) %}{{ i }}{% endfor %}",
    "{% set g = words|map('lower') %}{% for x in g %}{{ x }}{% endfor %}|{% for x in g %}{{ x }}{% else %}used up{% endfor %}",
    "{% set s = namespace(stop=false) %}{% for i in seq if not s.stop %}{{ i }}{% set s.stop = true %}{% endfor %}",
    # Set, with.
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a = 1, 2 %}{{ a }}",
    "{% set (a, b) = [1, 2] %}{{ a ~ b }}",
    "{% set a, b = 1 %}",
    "{% set x %}hi {{ number }}{% endset %}{{ x }}|{{ x|length }}",
    "{% set x | upper %}hi{% endset %}{{ x }}",
    "{% set x | replace('h', 'j') | upper %}hi{% endset %}{{ x }}",
    "{% set foo.x = 1 %}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{% set ns.b, c = 2, 3 %}{{ ns.a }}{{ ns.b }}{{ c }}",
    "{% set true = 1 %}",
    "{% set 1 = 1 %}",
    "{% if true %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% if false %}{% set number = 1 %}{% endif %}{{ number }}",
    "{% with %}{% set x = 1 %}{{ x }}{% endwith %}{{ x }}",
    "{% with a = 1, b = number %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% with a = 1 %}{% with b = a %}{{ b }}{% endwith %}{% endwith %}",
    "{% set number = number + 1 %}{{ number }}",
    # Macros.
    "{% macro input(name, value='', type='text') -%}<{{ type }} {{ name }}={{ value|e }}>{%- endmacro %}{{ input('a') }}{{ input('b', type='c') }}{{ input('d', 'e<', 'f') }}",
    "{% macro m(a, b) %}{{ a }}{{ b is defined }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m() }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=1) }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}",
    "{% macro m() %}{{ number }}{% endmacro %}{% set number = 1 %}{{ m() }}",
    "{% macro m() %}{% set y = 1 %}{{ y }}{% endmacro %}{{ m() }}{{ y }}",
    "{% macro m(a, b) %}{% endmacro %}{{ m.name }} {{ m.arguments }} {{ m.catch_kwargs }} {{ m.catch_varargs }} {{ m.caller }}",
    "{% macro m() %}x{% endmacro %}{{ m }}{{ m() * 2 }}{{ m()|upper }}",
    "{% macro d(title, class='dialog') -%}<{{ class }}><h2>{{ title }}</h2>{{ caller() }}</div>{%- endmacro %}{% call d('Hello') %}inside{% endcall %}",
    "{% macro dump(users) -%}<ul>{% for user in users %}<li>{{ user.username }}{{ caller(user) }}</li>{% endfor %}</ul>{%- endmacro %}{% call(user) dump(users) %}{{ user.city }}{% endcall %}",
    "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b=5) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m() %}x{% endmacro %}{% call m() %}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% for i in seq %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro a() %}{% macro b() %}in{% endmacro %}{{ b() }}{% endmacro %}{{ a() }}{{ b is defined }}",
    "{% macro m(x) %}{{ x }}{% endmacro %}{{ [1, 2]|map('string')|list }}{{ m(*[1]) }}{{ m(**{'x': 2}) }}",
    "{% macro m(a, a) %}{% endmacro %}",
    # Filters and other sections.
    "{% filter upper %}this {{ name }}{% endfilter %}",
    "{% filter replace('a', 'b')|upper %}banana{% endfilter %}",
    "{% filter indent(2) %}a\nb{% endfilter %}",
    "{% block a %}x{{ number }}{% endblock %}",
    "{% block a %}x{% endblock a %}",
    "{% for i in seq %}{% block a scoped %}{{ i }}{% endblock %}{% endfor %}",
    "{% print number, name %}",
    "{% generation %}a{% set x = 1 %}{% endgeneration %}{{ x }}",
    "{% for m in messages %}{% generation %}{{ m.role }}{{ loop.index }}{% endgeneration %}{% endfor %}",
    "{% do seq.append(1) %}",
    "{% include 'x' %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{% set _ = c.reset() %}{{ c.next() }}",
    "{% set pipe = joiner('|') %}{% for i in seq %}{{ pipe() }}{{ i }}{% endfor %}",
    "{{ number }}{{ number",
    "{{ }}",
    "{% set a = namespace() %}{% set a.x = a %}{{ a == a }}{{ a.x is sameas a }}{{ a.x.x.x is defined }}",
    "{% set a = namespace(x=1) %}{% set b = namespace(x=1) %}{{ a == b }}{{ a in [b] }}{{ a in [b, a] }}",
    "{% set ns = namespace(l=[]) %}{% for i in range(3) %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.l }}",
    "{% set ns = namespace(d={}) %}{% for i in range(3) %}{% set ns.d = dict(ns.d, **{'k' ~ i: i}) %}{% endfor %}{{ ns.d }}",
    # As chat templates do.
    "{%- for message in messages -%}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{{ '[' ~ message['role'] ~ ' ' + content.strip() + ']' }}{% endfor %}",
    "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.multi_step_tool and message.role == 'user' and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}{{ ns.last_query_index }}",
    "{% for message in messages %}{% if message.tool_calls is defined and message.tool_calls %}{% for call in message.tool_calls %}{% set f = call.function %}{{ {'name': f.name, 'arguments': f.arguments}|tojson }}{% endfor %}{% endif %}{% endfor %}",
    "{% if tools is iterable and tools | length > 0 %}tools{% endif %}{{ tools }}",
    "{% macro render_extra_keys(d, keys) %}{% if d is mapping %}{% for k in d if k not in keys %}{% if d[k] is mapping %}{{ '\\n<' ~ k ~ '>' ~ (d[k] | tojson | safe) ~ '</' ~ k ~ '>' }}{% else %}{{ '\\n<' ~ k ~ '>' ~ (d[k] | string) ~ '</' ~ k ~ '>' }}{% endif %}{% endfor %}{% endif %}{% endmacro %}{{ render_extra_keys(my_dict, ['a']) }}",
]

cases = []
for expression in EXPRESSIONS.strip("\n").split("\n"):
    cases.append(rendered("{{ " + expression + " }}", VARIABLES))
for template in TEMPLATES:
    cases.append(rendered(template, VARIABLES))
cases = [case for case in cases if case]
for case in cases:
    del case["variables"]
with open(HERE / "documented.json", "w", encoding="utf-8") as out:
    out.write('{"variables": ' + json.dumps(VARIABLES, ensure_ascii=False) + ',\n"cases": [\n')
    out.write(",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]}\n")
print(len(cases), "cases,", sum("error" in case for case in cases), "with an error")
