<?php
// The server that comes with PHP: a process for each request, calls over streams. It has no jobs of its own.

$calls = ['one' => 1, 'seq2' => 2, 'par2' => 2, 'fan8' => 8, 'sleep' => 2, 'executor' => 1, 'saturated' => 2, 'retry' => 1, 'late' => 1];

function open(string $path)
{
    $backend = parse_url(getenv('BACKEND'));
    $stream = stream_socket_client("tcp://{$backend['host']}:{$backend['port']}");
    fwrite($stream, "GET $path HTTP/1.1\r\nHost: backend\r\nConnection: close\r\n\r\n");
    return $stream;
}

function call(string $path): int
{
    return (int) substr(stream_get_contents(open($path)), 9, 3);
}

[, $pattern, $id] = explode('/', parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
if ($pattern === 'jobs') {
    echo 'ok';
    return;
}
$kept = ($_GET['ids'] ?? '') === 'kept';
$paths = [];
for ($index = 0; $index < $calls[$pattern]; $index++) {
    $digest = substr(hash('sha256', "$id:$index"), 0, 32);
    $paths[] = $kept ? "/call/$id/$index" : '/' . ($pattern === 'retry' ? 'flaky' : 'call') . "/$digest";
}
if ($pattern === 'late') {
    header('Content-Length: 2');
    echo 'ok';
    ob_end_flush();
    flush();
    usleep(2000);
    call($paths[0]);
    return;
}
if ($pattern === 'retry') {
    while (call($paths[0]) === 503);
} elseif ($pattern === 'par2' || $pattern === 'fan8') {
    foreach (array_map('open', $paths) as $stream) {
        stream_get_contents($stream);
    }
} else {
    foreach ($paths as $path) {
        if ($pattern === 'sleep') {
            usleep(10000);
        }
        call($path);
    }
}
echo 'ok';
