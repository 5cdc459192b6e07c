INSERT INTO species (big, small, bigs, exact, single, double, money, bits, bytes, inet, span, spans, day, at, clock, pause, place,
  doc, docb, xml, words, old, short, long, one, naming, mail, grades, lives, lived, colour, colours, which, vector)
VALUES (1, 1, '{1}', 1.5, 1.5, 1.5, '1', '101', '\x01', '::1', '[1,2)', '{[1,2)}', '2024-01-02', '2024-01-02', '10:00+00', '1 day', '(1,2)',
  '1', '[]', '<a/>', 'a b', 1, 'a', 'a', 'a', 'a', 'a@b', '{1}', '("a",1,red,"{""(1,2)""}")', '{"(a,1,red,)"}', 'red', '{red}', 'a', '1 2');
