<?php
if (($_SERVER["REQUEST_URI"] ?? "/") === "/slow") usleep(200000);
echo "generation ", getenv("HOTSWAP_GENERATION"), "\n";
