<?php
// PHP's sessions in memcached as they are set up by default, in binary and each behind a lock that is added first. Each
// use of a session counts one in it.
//
//   sessions.php PORT DIRECTORY
//
// Each line of the input is VERB ID, each line of the output a JSON object:
//   visit ID   waits for the session, counts and closes it: what it counted
//   try ID     the same, but gives up at once where another one has it: "locked"
//   open ID    waits for the session, counts, and keeps it open
//   close ID   closes that
// "alone" says whether nobody else had the session open; DIRECTORY has a file for each session that tells it.

const TIMEOUT_SECONDS = 30;
const WAIT_MS = 5;

set_error_handler(function ($level, $text) {
    throw new ErrorException($text, 0, $level);
}, E_WARNING | E_NOTICE);

[, $port, $directory] = $argv;
foreach (
    [
        'session.save_handler' => 'memcached',
        'session.save_path' => "127.0.0.1:$port",
        'session.use_cookies' => 0,
        'session.use_only_cookies' => 0,
        'session.cache_limiter' => '',
        'session.gc_probability' => 0,
        'memcached.sess_locking' => 1,
        'memcached.sess_lock_wait_min' => WAIT_MS,
        'memcached.sess_lock_wait_max' => WAIT_MS,
        'memcached.sess_connect_timeout' => TIMEOUT_SECONDS * 1000,
    ] as $name => $value
) {
    ini_set($name, (string) $value);
}

// Whether the session is open now, with its data; not, where another one has its lock.
function begin(string $id, int $retries): bool
{
    ini_set('memcached.sess_lock_retries', (string) $retries);
    session_id($id);
    $_SESSION = [];
    try {
        return session_start();
    } catch (ErrorException $error) {
        // All that it says of a lock that stays taken.
        if (!str_contains($error->getMessage(), 'session lock')) {
            throw $error;
        }
        session_abort();
        return false;
    }
}

$witness = null;
while (($line = fgets(STDIN)) !== false) {
    [$verb, $id] = explode(' ', trim($line));
    try {
        $said = ['done' => $verb];
        if ($verb !== 'close') {
            if (!begin($id, $verb === 'try' ? 0 : TIMEOUT_SECONDS * 1000 / WAIT_MS)) {
                echo json_encode(['locked' => $verb === 'try' ? 'as it may be' : 'for too long']), "\n";
                continue;
            }
            $witness = fopen("$directory/$id", 'c');
            $said['alone'] = flock($witness, LOCK_EX | LOCK_NB);
            $_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
            $said['count'] = $_SESSION['count'];
        }
        if ($verb !== 'open') {
            // Free before the lock is: nobody else can have it yet.
            fclose($witness);
            session_write_close();
        }
    } catch (ErrorException $error) {
        $said = ['error' => $error->getMessage()];
    }
    echo json_encode($said), "\n";
}
